"""Access to the machine: threads, processes, files, locks and signals."""
