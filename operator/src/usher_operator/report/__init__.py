"""Questions to gateways and hostnames, whose answers become conditions."""
