"""Bimanual tasks in simulators that bring their own environments."""
