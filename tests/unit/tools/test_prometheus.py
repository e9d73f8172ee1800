"""The rules that a live run loads."""

import yaml

from prometheus import server

RULES = """
groups:
- name: usher
  rules:
  - record: tenant:usher_visits:rate5m
    expr: sum without (instance) (rate(usher_arrivals_total{tenant="5m"}[5m])) / (rate(other_total[1h]) > 300)
  - alert: Down
    expr: up == 0
    for: 2m
  - alert: Lost
    expr: increase(lost_total[30s]) > 0
    for: 1m
"""


def test_windows_and_waiting_times_become_shorter() -> None:
    (group,) = yaml.safe_load(server.compress(RULES, 60))["groups"]
    record, down, lost = group["rules"]
    assert record["expr"] == (
        'sum without (instance) (rate(usher_arrivals_total{tenant="5m"}[5s])) / (rate(other_total[60s]) > 300)'
    )
    assert down == {"alert": "Down", "expr": "up == 0", "for": "2s"}
    assert lost == {"alert": "Lost", "expr": "increase(lost_total[1s]) > 0", "for": "1s"}, "at least a second"
