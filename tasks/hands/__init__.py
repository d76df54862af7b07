"""Bimanual Shadow-hand tasks."""
