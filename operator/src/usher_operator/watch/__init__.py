"""News of the cluster: watches, and the readings that find what they missed."""
