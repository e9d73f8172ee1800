"""The process: its leader, its installation, its queue and its health."""
