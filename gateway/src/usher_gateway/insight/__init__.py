"""A gateway's view of itself: the health of documents, listeners, destinations and tenants. No HTTP."""
