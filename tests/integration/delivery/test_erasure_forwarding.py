"""An erasure asks the destinations that declare it to erase the person too, and the receipt says what they answered."""

import asyncio
import functools
import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import test_utils, web

from support import command_line, gateways, waiting

EMAIL = "Ada.Lovelace@Example.com"
DIGEST = hashlib.md5(EMAIL.lower().encode(), usedforsecurity=False).hexdigest()


class Mailer:
    """Takes visits, keeps the requests to erase, and answers these with ``status``, or not at all."""

    def __init__(self) -> None:
        self.status = 204
        self.is_hanging = False
        self.asked = asyncio.Event()
        self.before_answer: Callable[[], Awaitable[None]] | None = None
        self.requests: list[tuple[str, str, bytes]] = []

    async def answer(self, request: web.BaseRequest) -> web.Response:
        if "usher-erasure" not in request.headers:
            return web.Response()
        self.requests.append((request.method, request.raw_path, await request.read()))
        self.asked.set()
        if self.before_answer is not None:
            await self.before_answer()
        if self.is_hanging:
            await asyncio.Event().wait()
        return web.Response(status=self.status)


def manifests(url: str) -> list[gateways.Manifest]:
    call = {
        "by": "Email",
        "url": f"{url}lists/9/members/{{member}}/actions/delete-permanent",
        "urlVariables": [{"name": "member", "value": "md5(visit.email.trim().lowerAscii())"}],
    }
    routes = [gateways.route("mailer", "mailer"), gateways.route("crm", "crm")]
    return [
        gateways.TENANT,
        gateways.listener("wifi", routes),
        gateways.destination("mailer", f"{url}visits", {"erasure": call}),
        gateways.destination("crm", f"{url}crm"),
    ]


@pytest.fixture
def mailer() -> Mailer:
    return Mailer()


@pytest.fixture
async def gateway(tmp_path: Path, mailer: Mailer) -> AsyncIterator[gateways.Gateway]:
    """A gateway that has delivered a visit of Ada to a mailer, which declares an erasure, and to a CRM."""
    async with (
        test_utils.RawTestServer(mailer.answer) as server,
        gateways.Gateway(tmp_path, manifests(str(server.make_url("/")))) as gateway,
    ):
        await gateway.start()
        body = {"user": {"id": 7, "email": EMAIL, "mobile": "+441632960001", "venue": {"id": 9}}}
        assert (await gateways.post(gateway.port, "/wifi", json.dumps(body).encode())).is_acknowledgement
        await waiting.wait_until(lambda: gateway.store.count("deliveries where state = 1") == 2)
        yield gateway


async def audited(gateway: gateways.Gateway) -> list[dict[str, Any]]:
    place = {"USHER_ADMIN": f"http://127.0.0.1:{gateway.admin}", "USHER_DATA": str(gateway.data)}
    run = await command_line.usher("audit", "--tenant", "acme", "-o", "json", **place)
    return [row for row in json.loads(run.out)["rows"] if row["action"] == "forward erasure"]


async def erase(gateway: gateways.Gateway, *flags: str, value: str = EMAIL) -> command_line.CommandRun:
    place = {"USHER_ADMIN": f"http://127.0.0.1:{gateway.admin}", "USHER_DATA": str(gateway.data)}
    return await command_line.usher("person", "erase", *flags, piped=value, COLUMNS="200", **place)


async def test_preview_names_who_would_be_asked_and_asks_nobody(gateway: gateways.Gateway, mailer: Mailer) -> None:
    run = await erase(gateway, "--forward")
    assert run.code == 2
    assert ": it is asked to erase them.\n" in "".join(line for line in run.out.splitlines(True) if "mailer" in line)
    assert ": erase them there too.\n" in "".join(line for line in run.out.splitlines(True) if "crm" in line)
    assert mailer.requests == []


async def test_destination_is_asked_and_the_receipt_has_its_answer(gateway: gateways.Gateway, mailer: Mailer) -> None:
    run = await erase(gateway, "--forward", "--yes", "-o", "json")
    assert run.code == 0, run.err
    assert mailer.requests == [("POST", f"/lists/9/members/{DIGEST}/actions/delete-permanent", b"")]
    receipt = json.loads(run.out)
    answer = receipt["sentTo"]["default/mailer"]["forwarded"]
    assert (answer["status"], answer["error"], receipt["sentTo"]["default/crm"]["forwarded"]) == (204, None, None)
    assert receipt["arrivals"] == 1
    for text in (run.out, gateway.log.read_text()):
        assert "lovelace" not in text.lower()
        assert DIGEST not in text


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (404, "the request to erase them was taken (404)."),
        (503, "the request to erase them was not taken, ServerError (503): erase them there."),
        (403, "the request to erase them was not taken, Forbidden (403): erase them there."),
    ],
)
async def test_person_is_erased_whatever_a_destination_answers(
    gateway: gateways.Gateway, mailer: Mailer, status: int, words: str
) -> None:
    mailer.status = status
    run = await erase(gateway, "--forward", "--yes")
    assert (run.code, words in run.out) == (0, True), run.out
    assert gateway.store.count("arrivals") == 0


async def test_visit_that_a_destination_gets_after_the_request_is_said(
    gateway: gateways.Gateway, mailer: Mailer
) -> None:
    async def visit_again() -> None:
        body = {"user": {"id": 8, "email": EMAIL, "venue": {"id": 9}}}
        assert (await gateways.post(gateway.port, "/wifi", json.dumps(body).encode())).is_acknowledgement
        await waiting.wait_until(lambda: gateway.store.count("deliveries where state = 1") == 4)

    mailer.before_answer = visit_again
    run = await erase(gateway, "--forward", "--yes")
    words = "the request to erase them was taken (204), but a visit came after it: erase them there."
    assert (run.code, words in run.out) == (0, True), run.out


async def test_destination_is_not_asked_without_the_flag_or_by_another_value(
    gateway: gateways.Gateway, mailer: Mailer
) -> None:
    run = await erase(gateway, "--forward", "--as", "mobile", "--yes", value="+441632960001")
    assert (run.code, "default/mailer has got 1 visit" in run.out) == (0, True)
    assert (await erase(gateway, "--yes")).code == 0
    assert mailer.requests == []


async def test_gateway_killed_while_it_asks_has_erased_nothing(gateway: gateways.Gateway, mailer: Mailer) -> None:
    mailer.is_hanging = True
    erasing = asyncio.create_task(erase(gateway, "--forward", "--tenant", "acme", "--yes"))
    await mailer.asked.wait()
    await gateway.kill()
    assert (await erasing).code != 0
    mailer.is_hanging = False
    await gateway.start()
    assert (gateway.store.count("arrivals"), gateway.store.count("erasures")) == (1, 0)
    assert [row["selection"]["destinations"] for row in await audited(gateway)] == [["default/mailer"]]
    assert (await erase(gateway, "--forward", "--yes")).code == 0
    assert (len(mailer.requests), gateway.store.count("arrivals")) == (2, 0)


async def test_erasure_goes_on_after_its_command_is_interrupted(gateway: gateways.Gateway, mailer: Mailer) -> None:
    answers = asyncio.Event()
    mailer.before_answer = functools.partial(_until, answers)
    place = ["--admin", f"http://127.0.0.1:{gateway.admin}", "--data", str(gateway.data)]
    command = [sys.executable, "-m", "usher_gateway", "person", "erase", "--forward", "--yes", *place]
    process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stdin is not None
    process.stdin.write(EMAIL.encode())
    process.stdin.close()
    await mailer.asked.wait()
    process.send_signal(signal.SIGINT)
    assert await process.wait() != 0
    answers.set()
    await waiting.wait_until(lambda: gateway.store.count("erasures") == 1 and gateway.store.count("arrivals") == 0)


async def _until(event: asyncio.Event) -> None:
    await event.wait()


async def test_destination_that_another_tenant_has_now_is_not_asked(gateway: gateways.Gateway, mailer: Mailer) -> None:
    tenant, wifi, its_mailer, crm = yaml.safe_load_all(gateway.file.read_text())
    its_mailer["spec"]["tenantRef"] = {"name": "globex"}
    gateway.configure([tenant, {**tenant, "metadata": {"name": "globex"}}, wifi, its_mailer, crm])

    async def preview() -> str:
        return next(line for line in (await erase(gateway, "--forward")).out.splitlines() if "mailer" in line)

    await waiting.until(preview, lambda line: line.endswith(": erase them there too."))
    assert (await erase(gateway, "--forward", "--yes")).code == 0
    assert mailer.requests == []
