"""Debian's Prometheus for tests and for the pictures of the boards: fetched into the cache, never installed."""
