"""The configuration: its schema, the command line's overrides, checks, what is continued."""
