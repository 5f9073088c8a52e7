"""CT-RATE's names, tables and published feature files."""
