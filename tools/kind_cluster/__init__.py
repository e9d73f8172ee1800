"""A kind cluster with Usher, for users who have docker and kind."""
