"""News from the cluster: watches, and the readings that find what they missed."""
