"""The configuration: its schema, overrides of the command line, checks, and resumed runs."""
