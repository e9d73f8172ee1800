"""Columns and filters of lists, states, and sentences, as commands, pages and the API show them. No HTTP, no I/O."""
