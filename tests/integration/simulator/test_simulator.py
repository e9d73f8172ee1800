"""The simulator with correct, forgetful, slow, stopped or hostile listeners; all on loopback."""

import asyncio
import itertools
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from local_cluster import ports
from support import peers, waiting
from usher_gateway import model, simulator
from usher_gateway.simulator import books

HONEST = simulator.Behaviour(success_header=True)
USHER = Path(sys.executable).with_name("usher")
PATTERN = simulator.Pattern(authentications=40, duration_seconds=3_600, curve=simulator.FLAT, redeliveries=0.1)
SCALE = 3600 * 20.0  # Factor of the clock: Purple's retry comes after 0.15 s


@pytest.fixture
async def listener() -> AsyncIterator[simulator.Receiver]:
    settings = simulator.ReceiverSettings(usual=HONEST, keep=True)
    async with simulator.Receiver(settings) as receiving:
        yield receiving


def _settings(url: str, **changes: Any) -> simulator.SimulatorSettings:
    given: dict[str, Any] = {
        "targets": (simulator.SimulatorTarget(url=url),),
        "pattern": PATTERN,
        "time_scale": SCALE,
        "validate": False,
        **changes,
    }
    return simulator.SimulatorSettings(**given)


async def _run(url: str, **changes: Any) -> simulator.SenderBooks:
    result = await simulator.Simulator(_settings(url, **changes)).run()
    (listener_books,) = result.listeners
    _assert_balanced(listener_books)
    return listener_books


def _assert_balanced(counted: simulator.SenderBooks) -> None:
    assert counted.sent == counted.answered_well + counted.failures + counted.hung_up
    assert counted.authentications == counted.acknowledged + counted.unacknowledged
    assert counted.answered_well == counted.acknowledged + counted.redelivered
    assert len(counted.unacknowledged_markers) == counted.unacknowledged - counted.never_sent


async def _received(listener: simulator.Receiver) -> int:
    return listener.counts("/hook").received


def _down(status: int) -> simulator.Behaviour:
    return simulator.Behaviour(status=status, success_header=True)


async def test_honest_listener_gets_everything_and_the_books_agree(listener: simulator.Receiver) -> None:
    counted = await _run(f"{listener.url}/hook")
    arrived = [simulator.marker(each.body) for each in listener.kept("/hook")]
    assert (counted.acknowledged, counted.unacknowledged, counted.failures) == (40, 0, 0)
    assert (counted.redeliveries, counted.redelivered) == (4, 4)
    assert listener.counts("/hook").received == counted.sent == 44
    planned = simulator.plan(PATTERN, seed=1)
    assert len(arrived) == 44
    assert len({marker.partition("@")[0] for marker in arrived}) == len({event.person for event in planned})


async def test_requests_have_only_headers_that_purple_sends(listener: simulator.Receiver) -> None:
    await _run(f"{listener.url}/hook?k=7")
    allowed = {"host", "user-agent", "content-type", "content-length", "accept", "accept-encoding"}
    for each in listener.kept("/hook"):
        assert set(each.headers) <= allowed
        assert (each.method, each.path) == ("POST", "/hook?k=7")
        assert each.headers["content-type"] == "application/json"


async def test_redelivery_has_the_same_bytes_three_hours_later(listener: simulator.Receiver) -> None:
    await _run(f"{listener.url}/hook", pattern=simulator.Pattern(authentications=1, duration_seconds=1, redeliveries=1))
    first, second = listener.kept("/hook")
    assert first.body == second.body
    assert second.at - first.at >= books.RETRY_SECONDS / SCALE * model.MICROSECONDS * 0.9


async def test_validation_is_listed_in_each_shape(listener: simulator.Receiver) -> None:
    counted = await _run(f"{listener.url}/hook", validate=True)
    calls = [(each.method, each.body) for each in listener.kept("/hook")[:4]]
    assert calls == [("GET", b""), ("HEAD", b""), ("POST", b""), ("POST", b"{}")]
    assert [each.passed for each in counted.validations] == [True] * 5
    assert (counted.probes, counted.sample_visits) == (4, 1)
    assert simulator.marker(listener.kept("/hook")[4].body).startswith("29999999@")


async def test_listener_that_fails_validation_gets_no_visits(listener: simulator.Receiver) -> None:
    listener.set_behaviour("/hook", _down(404))
    counted = await _run(f"{listener.url}/hook", validate=True)
    assert (counted.sent, counted.never_sent, len(counted.validations)) == (0, 40, 5)
    assert not simulator.judge_books(counted).survives


@pytest.mark.parametrize("name", ["wifiwebhooklistener", "Wifiwebhooklistener"])
async def test_header_in_another_case_survives_with_a_note(name: str) -> None:
    answer = f"HTTP/1.1 200 OK\r\n{name}: 1\r\nContent-Length: 0\r\n\r\n".encode()
    async with peers.serving(peers.answering(answer)) as proxy:
        counted = await _run(proxy.url())
    judged = simulator.judge_books(counted)
    assert judged.survives
    assert judged.lines[1].startswith(f"The header came as {name}, mostly because a proxy rewrites names")


async def test_slow_listener_is_counted_as_timed_out_with_markers(listener: simulator.Receiver) -> None:
    listener.set_behaviour("/hook", simulator.Behaviour(delay_seconds=5, success_header=True))
    pattern = simulator.Pattern(authentications=5, duration_seconds=60, untimed=0)
    counted = await _run(f"{listener.url}/hook", pattern=pattern, limit_seconds=1, patience_seconds=0.1)
    assert counted.timed_out == counted.sent >= 5
    arrived = {simulator.marker(each.body) for each in listener.kept("/hook")}
    assert set(counted.timed_out_markers) == set(counted.unacknowledged_markers) == arrived


async def test_validate_only_sends_no_visits(listener: simulator.Receiver) -> None:
    await _run(f"{listener.url}/hook", validate=True, validate_only=True)
    assert listener.counts("/hook").received == 5


async def test_time_limit_covers_the_whole_answer() -> None:
    head = b"HTTP/1.1 200 OK\r\nwifiWebhookListener: 1\r\nContent-Length: 100000\r\n\r\n"
    pattern = simulator.Pattern(authentications=2, duration_seconds=1)
    async with peers.serving(peers.answering(head, *[b"."] * 100_000, pause_seconds=0.05)) as dripping:
        counted = await _run(dripping.url(), pattern=pattern, limit_seconds=0.2, patience_seconds=0.1)
    assert counted.timed_out == counted.sent


async def test_failed_visit_is_retried_every_three_hours(listener: simulator.Receiver) -> None:
    listener.set_behaviour("/hook", _down(500))
    pattern = simulator.Pattern(authentications=20, duration_seconds=60, redeliveries=0)
    repairing = asyncio.create_task(_repair(listener, after=60))
    counted = await _run(f"{listener.url}/hook", pattern=pattern)
    await repairing
    assert counted.unacknowledged == 0
    assert counted.failed_by_status == {500: counted.retries}
    assert counted.retries >= 60
    times: dict[str, list[int]] = {}
    for each in listener.kept("/hook"):
        times.setdefault(simulator.marker(each.body), []).append(each.at)
    shortest = books.RETRY_SECONDS / SCALE * model.MICROSECONDS * 0.9
    single = [moments for moments in times.values() if len(moments) > 1 and len(set(moments)) == len(moments)]
    assert any(min(b - a for a, b in itertools.pairwise(m)) >= shortest for m in single)
    assert simulator.judge_books(counted).survives


async def _repair(listener: simulator.Receiver, after: int) -> None:
    """Let the listener answer as usual once it has failed this often."""
    await waiting.until(lambda: _received(listener), lambda count: count >= after, every_seconds=0.005)
    listener.set_behaviour("/hook", HONEST)


async def test_hook_with_failures_only_is_disabled(listener: simulator.Receiver) -> None:
    listener.set_behaviour("/hook", _down(503))
    disabled_so_far: list[bool] = []
    settings = _settings(
        f"{listener.url}/hook",
        pattern=simulator.Pattern(authentications=30, duration_seconds=72 * 3600, curve=simulator.FLAT),
        disable_seconds=12 * 3600.0,
    )
    result = await simulator.Simulator(
        settings, lambda so_far: disabled_so_far.append(so_far.listeners[0].disabled)
    ).run()
    (counted,) = result.listeners
    _assert_balanced(counted)
    assert counted.disabled
    assert 0 < counted.never_sent < 30
    assert listener.counts("/hook").received == counted.sent
    assert any(disabled_so_far)
    assert "DISABLED" in simulator.judge_books(counted).lines[1]


async def test_hung_up_request_arrives_whole_and_is_retried(listener: simulator.Receiver) -> None:
    listener.set_behaviour("/hook", simulator.Behaviour(delay_seconds=0.05, success_header=True))
    pattern = simulator.Pattern(authentications=20, duration_seconds=60, hang_ups=0.5, redeliveries=0, untimed=0)
    counted = await _run(f"{listener.url}/hook", pattern=pattern)
    assert (counted.hung_up, counted.retries, counted.unacknowledged) == (10, 10, 0)
    arrived = [simulator.marker(each.body) for each in listener.kept("/hook")]
    assert {marker for marker in arrived if arrived.count(marker) == 2} == set(counted.timed_out_markers)


@pytest.mark.parametrize("handler", [peers.resetting, peers.answering(b"\x16\x03\x01 this is not HTTP \x00\r\n\r\n")])
async def test_broken_answer_is_counted_separately(handler: peers.Handler) -> None:
    async with peers.serving(handler) as peer:
        counted = await _run(peer.url(), patience_seconds=0.1)
    assert counted.broken == counted.sent >= 40


async def test_closed_port_is_unreachable_and_redirects_are_not_followed(listener: simulator.Receiver) -> None:
    nowhere = f"http://127.0.0.1:{ports.free()}/hook"
    counted = await _run(nowhere, patience_seconds=0.1)
    assert counted.unreachable == counted.sent > 0
    address = nowhere.removeprefix("http://").removesuffix("/hook")
    assert counted.causes == {f"{address}: connection refused": counted.sent}
    listener.set_behaviour("/hook", simulator.Behaviour(status=302, location=nowhere))
    counted = await _run(f"{listener.url}/hook", patience_seconds=0.1)
    assert counted.failed_by_status == {302: counted.sent}


async def test_connect_keeps_the_host_of_the_url(listener: simulator.Receiver) -> None:
    counted = await _run("http://hooks.acme.example:8080/hook", connect=("127.0.0.1", listener.port))
    assert counted.unacknowledged == 0
    assert {each.headers["host"] for each in listener.kept("/hook")} == {"hooks.acme.example:8080"}


async def test_credentials_are_sent(listener: simulator.Receiver) -> None:
    target = simulator.SimulatorTarget(url=f"{listener.url}/hook", headers=(("X-Key", "hunter2"),))
    await _run("", targets=(target,), validate=True)
    assert {each.headers["x-key"] for each in listener.kept("/hook")} == {"hunter2"}


async def test_each_url_has_separate_books(listener: simulator.Receiver) -> None:
    targets = (
        simulator.SimulatorTarget(url=f"{listener.url}/a", company=simulator.Company("1", seed=1)),
        simulator.SimulatorTarget(url=f"{listener.url}/b", company=simulator.Company("2", seed=2)),
    )
    listener.set_behaviour("/b", _down(503))
    result = await simulator.Simulator(_settings("", targets=targets, patience_seconds=0.05)).run()
    assert [each.unacknowledged for each in result.listeners] == [0, 40]
    assert not {each.body for each in listener.kept("/a")} & {each.body for each in listener.kept("/b")}


async def test_concurrency_is_limited(listener: simulator.Receiver) -> None:
    listener.set_behaviour("/hook", simulator.Behaviour(delay_seconds=0.02, success_header=True))
    pattern = simulator.Pattern(authentications=30, duration_seconds=1, redeliveries=0)
    result = await simulator.Simulator(_settings(f"{listener.url}/hook", pattern=pattern, concurrency=3)).run()
    assert result.real_seconds >= 30 / 3 * 0.02
    assert result.listeners[0].behind_seconds > 0.1


async def test_stop_returns_the_present_books_at_once(listener: simulator.Receiver) -> None:
    pattern = simulator.Pattern(authentications=100, duration_seconds=10 * SCALE, curve=simulator.FLAT)
    sending = simulator.Simulator(_settings(f"{listener.url}/hook", pattern=pattern))
    running = asyncio.create_task(sending.run())
    await waiting.until(lambda: _received(listener))
    sending.stop()
    result = await asyncio.wait_for(running, 60)
    (counted,) = result.listeners
    _assert_balanced(counted)
    assert result.interrupted
    assert counted.never_sent == 100 - counted.acknowledged > 0


@pytest.mark.parametrize("url", ["hooks.example.com/x", "ftp://h/x", "https://", "https://u:p@h/x", "https://h:x/"])
async def test_invalid_url_is_rejected_without_printing_its_secret(url: str) -> None:
    with pytest.raises(model.ConfigurationError) as caught:
        simulator.Simulator(_settings(url))
    assert "u:p" not in str(caught.value)


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[tuple[simulator.Receiver, peers.Authority]]:
    """A listener with a certificate for hooks.acme.example, and the authority that signed it."""
    authority = peers.Authority(tmp_path)
    authority.serving("hooks.acme.example")
    file = str(authority.peer_file)
    settings = simulator.ReceiverSettings(usual=HONEST, tls_certificate=file, tls_key=file)
    async with simulator.Receiver(settings) as receiving:
        yield receiving, authority


@pytest.mark.parametrize(
    ("host", "trust", "fails"),
    [
        ("hooks.acme.example", "ca", False),
        ("hooks.acme.example", "none", True),
        ("other.acme.example", "ca", True),
        ("other.acme.example", "insecure", False),
    ],
)
async def test_certificate_must_be_valid_for_the_host_of_the_url(
    secure: tuple[simulator.Receiver, peers.Authority], host: str, trust: str, fails: bool
) -> None:
    receiving, authority = secure
    counted = await _run(
        f"https://{host}/hook",
        connect=("127.0.0.1", receiving.port),
        ca=str(authority.file) if trust == "ca" else "",
        tls="Insecure" if trust == "insecure" else "Verify",
        patience_seconds=0.0,
    )
    assert (counted.tls_failed == counted.sent) is fails
    assert (counted.unacknowledged == 0) is not fails


async def _simulate(*arguments: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(USHER, "simulate", *arguments, stdout=pipe, stderr=pipe)


async def test_exit_code_says_whether_the_listener_survives(listener: simulator.Receiver) -> None:
    listener.set_behaviour("/bad", simulator.Behaviour())
    flags = ("--visits", "20", "--rate", "200", "--retry-after", "60", "--no-validate", "--output", "json")
    processes = [await _simulate(f"{listener.url}/{path}", *flags, "--patience", "0") for path in ("hook", "bad")]
    good, bad = [json.loads((await asyncio.wait_for(process.communicate(), 60))[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 1]
    assert (good["survives"], bad["survives"]) == (True, False)
    assert bad["books"]["listeners"][0]["header_missing"] == 20


async def test_ctrl_c_stops_the_command_and_prints_the_books(listener: simulator.Receiver) -> None:
    process = await _simulate(f"{listener.url}/hook", "--no-validate", "--rate", "10", "--output", "json")
    await waiting.until(lambda: _received(listener), lambda count: count >= 2)
    process.send_signal(signal.SIGINT)
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    report = json.loads(out)
    assert process.returncode == 1
    assert report["books"]["interrupted"] is True
    assert report["books"]["listeners"][0]["acknowledged"] == listener.counts("/hook").taken
