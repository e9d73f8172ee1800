"""The demonstration behind `make run` and `make run-kubernetes`: a simulated day of an agency with three tenants."""
