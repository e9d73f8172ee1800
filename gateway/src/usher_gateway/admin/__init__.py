"""The admin port: health, metrics and the /api/ routes."""
