"""What gateways and hostnames answer, so that conditions can say it."""
