"""What is kept of a run: its folder, checkpoints and metrics."""
