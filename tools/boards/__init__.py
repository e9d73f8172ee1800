"""Grafana's boards, written from Python: one module for each board, all of panels made by ``panels``."""
