"""Subcommands of ``madpo``: their arguments, output and exit codes."""
