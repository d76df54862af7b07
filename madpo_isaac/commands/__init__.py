"""The sub-commands of ``madpo``: their arguments, what they print, their exit codes."""
