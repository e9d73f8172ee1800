"""What a gateway knows about itself: the health of its documents, listeners, destinations and tenants. No HTTP."""
