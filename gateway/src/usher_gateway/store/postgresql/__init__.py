"""The PostgreSQL engine: many gateways on one database. asyncpg is loaded only with it."""
