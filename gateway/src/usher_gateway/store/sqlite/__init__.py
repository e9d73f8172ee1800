"""The default engine: SQLite in WAL mode, one writer thread, group commit."""
