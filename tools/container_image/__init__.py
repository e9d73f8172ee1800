"""Builds the container image: with the engine at hand, and for tests without a registry and without network."""
