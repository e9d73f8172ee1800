"""Usher's control plane: custom resources in, routes and live configuration out (a skeleton so far)."""
