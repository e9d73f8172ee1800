"""One sender per destination type, found by listing this package."""
