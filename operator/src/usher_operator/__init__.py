"""Usher's control plane: custom resources in, routes and live configuration out."""

__version__ = "0.1.0"
