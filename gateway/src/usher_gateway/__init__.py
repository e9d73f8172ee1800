"""Usher's data plane: between Purple WiFi's webhooks and the systems of many companies."""

__version__ = "0.1.0"
