"""The life of the process: its leader, its installation, its queue and its health."""
