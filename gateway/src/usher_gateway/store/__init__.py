"""The store: one port (port.py), one folder per engine, one contract suite over all."""
