"""What the machine gives: threads, processes, files, locks and signals."""
