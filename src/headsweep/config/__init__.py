"""The typed config: its schema, values from plain data, overrides, and config files."""
