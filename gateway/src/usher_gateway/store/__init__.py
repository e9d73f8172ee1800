"""The store: one interface (base.py), one folder per engine, and one contract suite (tests/contract) for all."""
