"""The page to read first: accept_arrival() and deliver(), two lists of steps, no other logic."""
