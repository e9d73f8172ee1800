"""Receivers read Usher's CloudEvents with the SDKs of PyPI, Go and npm, in both modes."""

import asyncio
import base64
import datetime
import json
import re
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import delivery_samples, event_sdks, gateways, peers
from usher_gateway import model
from usher_gateway.delivery import payload
from usher_gateway.destinations import DestinationRequest

# The first run on a machine builds and installs what `make test` prepares.
pytestmark = pytest.mark.timeout(700)

BODY = json.dumps(
    {
        "user": {"id": 7, "firstName": "Zoë", "lastName": "Łukasiewicz-李", "venue": {"id": 3, "name": "Café Zürich"}},
        "visits": 12,
        "score": 0.5,
    },
    ensure_ascii=False,
).encode()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
Reader = Callable[[bytes], event_sdks.ReadEvent]


# Usher does not need Node, so its tests must not need it either. npm's SDK is tested where Node is installed, for
# example where changes are checked.
@pytest.fixture(
    params=[
        "python",
        "python_v1",
        "go",
        pytest.param(
            "node",
            marks=pytest.mark.skipif(
                event_sdks.NODE is None or event_sdks.NPM is None, reason="Node or npm is not installed"
            ),
        ),
    ]
)
def reader(request: pytest.FixtureRequest) -> Reader:
    return event_sdks.READERS[request.param]


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The request that a gateway sent for one visit, by format."""
    return asyncio.run(_deliver_in_both_formats(tmp_path_factory.mktemp("gateway")))


async def _deliver_in_both_formats(folder: Path) -> dict[str, bytes]:
    async with peers.serving(peers.answering(OK)) as structured, peers.serving(peers.answering(OK)) as binary:
        manifests = [
            gateways.TENANT,
            gateways.listener("lobby", [gateways.route("events", "events"), gateways.route("headers", "headers")]),
            gateways.destination("events", structured.url(), format="CloudEvents"),
            gateways.destination("headers", binary.url(), format="CloudEventsBinary"),
        ]
        async with gateways.Gateway(folder, manifests) as gateway:
            await gateway.start()
            assert (await gateways.post(gateway.port, "/lobby", BODY)).is_acknowledgement
            async with asyncio.timeout(60):
                await structured.seen.wait()
                await binary.seen.wait()
    return {"CloudEvents": structured.requests[0], "CloudEventsBinary": binary.requests[0]}


def header(request: bytes, name: str) -> str:
    header_line = re.search(rb"\r\n%s: ([^\r]*)\r\n" % name.encode(), request, re.IGNORECASE)
    assert header_line is not None, f"no header {name}"
    return header_line[1].decode()


@pytest.mark.parametrize(("form", "route"), [("CloudEvents", "events"), ("CloudEventsBinary", "headers")])
def test_sdk_reads_the_event_that_a_gateway_sends(
    reader: Reader, sent: dict[str, bytes], form: str, route: str
) -> None:
    event = reader(sent[form])
    assert event.attributes | {"time": ""} == {
        "specversion": "1.0",
        "id": header(sent[form], "webhook-id"),
        "source": "/default/acme/lobby",
        "type": "dev.usher.visit",
        "time": "",
        "datacontenttype": "application/json",
        "usherroute": route,
        "usherlate": False if form == "CloudEvents" else "false",
        "usherreceivedat": header(sent[form], "usher-received-at"),
    }
    assert event.time == datetime.datetime.fromisoformat(header(sent[form], "usher-visit-time"))
    assert event.data == json.loads(BODY)


def rendered(form: str, route: model.RouteDefinition = delivery_samples.ROUTE, **changes: Any) -> bytes:
    """Return the bytes of a request for a delivery that no manifest can cause as easily."""
    target = payload.prepare(delivery_samples.destination(format=form))
    request = payload.render(target, delivery_samples.delivery(**changes), route, delivery_samples.RECEIVED_AT)
    assert isinstance(request, DestinationRequest)
    headers = [("host", "crm.example"), ("content-length", str(len(request.body))), *request.headers]
    head = "".join([f"{name}: {value}\r\n" for name, value in headers])
    return f"POST /in HTTP/1.1\r\n{head}\r\n".encode() + request.body


@pytest.mark.parametrize("form", ["CloudEvents", "CloudEventsBinary"])
def test_sdk_reads_a_body_that_is_not_json(reader: Reader, form: str) -> None:
    body = "Zoë, 12 visits".encode()
    event = reader(rendered(form, body=body, content_type=b"text/plain; charset=utf-8"))
    assert event.attributes["datacontenttype"] == "text/plain; charset=utf-8"
    assert base64.b64decode(event.data_base64) == body


@pytest.mark.parametrize("form", ["CloudEvents", "CloudEventsBinary"])
def test_sdk_reads_an_attribute_outside_of_ascii(reader: Reader, form: str) -> None:
    route = model.RouteDefinition(delivery_samples.ROUTE.listener, "Zürich-李", "agency/crm")
    name = reader(rendered(form, route)).attributes["usherroute"]
    if form == "CloudEventsBinary":
        # CloudEvents encodes such characters in headers. Of the SDKs, only PyPI's newer interface decodes them.
        name = urllib.parse.unquote(name)
    assert name == "Zürich-李"
