"""The jobs of the store, each written once for all engines, with their statements."""
