"""A sender that behaves like Purple, and a receiver; both are products in themselves."""
