"""A real Prometheus scrapes a real gateway through a staged day: the right alerts fire, and every panel has data.

The rules are the shipped ones, with every window and `for` 60 times shorter (`server.compress`), because a test cannot
wait for 15 minutes: this run shows that expressions match what a gateway exports. That each alert waits for its time is
tested with promtool and the rules as they are (test_alerts.py). UPDATE_DOCS=1 draws the boards into docs/boards.
"""

import json
import os
import time
from pathlib import Path

import pytest

from boards import output, pictures, staged_day
from prometheus import server
from support import promtool

SECONDS = 75.0

BOARDS = {Path(name).stem: json.loads(text) for name, text in output.files().items() if "operator" not in name}
PICTURES = Path(__file__).parents[2] / "docs" / "boards"


def name_of(alert: dict[str, str]) -> tuple[str, str]:
    """The name of an alert, and its tenant, or its destination if it has no tenant."""
    return alert["alertname"], alert.get("tenant") or alert.get("destination", "")


@pytest.mark.timeout(400)  # the day takes 75 s
async def test_staged_day_fires_its_alerts_and_fills_every_panel(tmp_path: Path) -> None:
    rules = [server.compress(file.read_text("utf-8"), 60) for file in promtool.rule_files() if file.stem != "operator"]
    async with (
        staged_day.running(tmp_path) as day,
        server.Prometheus(tmp_path / "prometheus", {f"127.0.0.1:{day.admin}": {}}, rules) as prometheus,
    ):
        await prometheus.wait_for('usher_build_info unless on () ALERTS{alertname="GatewayDown"}')  # the first scrape
        begun = time.time()
        await day.play(SECONDS)
        for name, about in staged_day.EXPECTED:
            labels = "destination" if name == "DestinationDown" else "tenant"
            await prometheus.wait_for(f'ALERTS{{alertname="{name}",{labels}="{about}",alertstate="firing"}}')
        fired = {name_of(alert) for alert in await prometheus.fired(begun)} - staged_day.POSSIBLE
        assert {alert for alert in fired if alert[0] not in server.OF_THE_MACHINE} == staged_day.EXPECTED
        for board in BOARDS.values():
            for panel in board["panels"]:
                queries = [pictures.filled(target["expr"]) for target in panel["targets"]]
                have_data = [bool(await prometheus.query_range(expr, begun, time.time(), 1.0)) for expr in queries]
                # A table of causes has columns for what this day does not have.
                assert any(have_data) if panel["type"] == "table" else all(have_data), panel["title"]
        assert "harbour-hotels" in day.terminal
        assert "1 silent" in day.terminal
        if os.environ.get("UPDATE_DOCS"):
            pictures.draw_terminal(day.terminal, "usher top --failing", PICTURES / "usher-top.svg")
            for stem, board in BOARDS.items():
                drawing = pictures.Drawing(prometheus, begun, tenant="harbour-hotels" if stem == "tenant" else ".+")
                await drawing.draw(board, PICTURES / f"{stem}.png")
