"""Training: the run's loop, what collects, and what watches, guards and saves it."""
