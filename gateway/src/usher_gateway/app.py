"""The only composition root of the gateway: what is built, in which order it starts and stops."""
