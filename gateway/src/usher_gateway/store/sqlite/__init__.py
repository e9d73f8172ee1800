"""The SQLite engine: one file, one writer thread, group commit. SqliteStore in store.py implements store/base.py."""
