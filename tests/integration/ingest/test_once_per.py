"""Routes of several listeners share one once-per limit by its name."""

import datetime
from pathlib import Path

from integration import gateways
from usher_gateway import model


async def test_visitor_whom_two_webhooks_report_gets_one_mail_a_day(tmp_path: Path) -> None:
    rule = {"name": "daily-mail", "per": ["User"], "every": "Day"}
    manifests = [
        gateways.TENANT,
        *(gateways.listener(name, [gateways.route(name, "mail", oncePer=rule)]) for name in ("wifi", "events")),
        gateways.destination("mail", "http://127.0.0.1:1/", state="Paused"),
    ]
    async with gateways.running(tmp_path, manifests) as gateway:
        now = datetime.datetime.now(datetime.UTC).isoformat()  # one time for all, because midnight may come
        for name in ("wifi", "events"):
            for number in (1, 2):
                body = gateways.visit(number, loginDatetime=now)
                assert (await gateways.post(gateway.port, f"/{name}", body)).is_acknowledgement
        await gateway.store.flush()
        meters = gateways.StoreFile(tmp_path / "data" / "usher.sqlite3").meters()
    assert (meters[model.Counter.created], meters[model.Counter.skipped_once_per]) == (2, 2)
