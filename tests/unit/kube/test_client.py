"""Pages and events of an API server: what the client reads, and what it rejects."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import hypothesis
import pytest
from aiohttp import web
from hypothesis import strategies

from usher_gateway.kube import access, client


class Server:
    """Answers each request with the next of the prepared responses."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes]] = []
        self.asked: list[dict[str, str]] = []
        self.headers: list[dict[str, str]] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(dict(request.query))
        self.headers.append(dict(request.headers))
        status, body = self.answers.pop(0)
        return web.Response(status=status, body=body, headers={"Retry-After": "0"})


class Running:
    """A client, and the server that it talks to."""

    def __init__(self, server: Server, opened: client.Client) -> None:
        self.server, self.client = server, opened

    async def names(self, *answers: bytes) -> list[str]:
        """Names of a list, answered by these pages."""
        self.server.answers = [(200, answer) for answer in answers]
        pages = self.client.pages("/api/v1/secrets", dict[str, Any], attempts=1)
        return [item["metadata"]["name"] async for page in pages for item in page.items]

    async def events(self, answer: bytes) -> list[client.WatchEvent[dict[str, Any]]]:
        self.server.answers = [(200, answer)]
        stream = self.client.watch("/api/v1/secrets", dict[str, Any], resource_version="1")
        return [event async for event in stream]


@contextlib.asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Running]:
    server, application = Server(), web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    connection = access.ApiConnection(server=f"http://127.0.0.1:{runner.addresses[0][1]}", authorization="Bearer abc")
    try:
        async with client.Client(access.Access(lambda _: connection), **options) as opened:
            yield Running(server, opened)
    finally:
        await runner.cleanup()


@pytest.fixture
async def started() -> AsyncIterator[Running]:
    async with running() as started_client:
        yield started_client


def item(name: str = "listener-1", version: str = "7") -> dict[str, object]:
    metadata = {"name": name, "resourceVersion": version}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"config.json": "e30="}}


def page(**changes: object) -> bytes:
    value = {"kind": "SecretList", "metadata": {"resourceVersion": "9"}, "items": [item()], **changes}
    return json.dumps(value).encode()


def event(event_type: str, changed: object) -> bytes:
    return json.dumps({"type": event_type, "object": changed}).encode() + b"\n"


async def test_pages_of_a_list_are_read(started: Running) -> None:
    more = {"resourceVersion": "9", "continue": "abc", "remainingItemCount": 1}
    assert await started.names(page(metadata=more), page(items=[item("two")])) == ["listener-1", "two"]
    assert [query.get("continue") for query in started.server.asked] == [None, "abc"]
    assert {headers["Authorization"] for headers in started.server.headers} == {"Bearer abc"}


async def test_list_without_items_is_empty(started: Running) -> None:
    assert await started.names(page(items=None)) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        page(kind="Status"),
        page(metadata={}),
        page(metadata={"resourceVersion": ""}),
        page(items=[1]),
        page(metadata={"resourceVersion": "9", "continue": "abc"}, items=[]),
    ],
)
async def test_response_that_is_not_a_list_is_an_error(started: Running, content: bytes) -> None:
    with pytest.raises(client.UnreadableAnswerError):
        await started.names(content)


async def test_list_without_an_end_is_an_error(started: Running) -> None:
    same = page(metadata={"resourceVersion": "9", "continue": "abc"})
    with pytest.raises(client.UnreadableAnswerError, match="do not end"):
        await started.names(same, same)


async def test_page_that_is_too_long_is_requested_again_with_fewer_rows() -> None:
    async with running(limits=client.ClientLimits(page_rows=8, page_bytes=1000)) as started_client:
        long = page(items=[item("x" * 2000)])
        assert await started_client.names(long, long, page()) == ["listener-1"]
        assert [query["limit"] for query in started_client.server.asked] == ["8", "4", "2"]


async def test_objects_of_a_page_are_released_before_the_next_page_is_read(started: Running) -> None:
    started.server.answers = [(200, page(metadata={"resourceVersion": "9", "continue": "abc"})), (200, page())]
    pages = started.client.pages("/api/v1/secrets", dict[str, Any])
    first_page = await anext(pages)
    assert len(first_page.items) == 1
    await anext(pages)
    assert first_page.items == []


async def test_pages_grow_while_objects_are_small() -> None:
    def next_page(number: int) -> bytes:
        return page(metadata={"resourceVersion": "9", "continue": f"c{number}"})

    limits = client.ClientLimits(first_page_rows=4, page_rows=10, page_bytes=4000)
    async with running(limits=limits) as started_client:
        await started_client.names(next_page(1), next_page(2), page())
        assert [query["limit"] for query in started_client.server.asked] == ["4", "8", "10"]


async def test_metadata_can_be_listed_alone(started: Running) -> None:
    started.server.answers = [(200, page(kind="PartialObjectMetadataList"))]
    async for _ in started.client.pages("/api/v1/secrets", dict[str, Any], is_metadata_only=True):
        pass
    assert "as=PartialObjectMetadataList" in started.server.headers[0]["Accept"]


@pytest.mark.parametrize("event_type", ["ADDED", "MODIFIED", "DELETED", "BOOKMARK"])
async def test_event_is_read(started: Running, event_type: str) -> None:
    [received] = await started.events(event(event_type, item()))
    assert (received.type, received.resource_version, received.item) == (event_type, "7", item())


async def test_bookmark_has_only_a_version(started: Running) -> None:
    metadata = {"resourceVersion": "12", "creationTimestamp": None}
    [received] = await started.events(event("BOOKMARK", {"kind": "Secret", "metadata": metadata}))
    assert received.resource_version == "12"


@pytest.mark.parametrize("code", [410, 500])
async def test_error_event_ends_the_watch_with_its_status(started: Running, code: int) -> None:
    with pytest.raises(client.ApiError) as caught:
        await started.events(event("ERROR", {"kind": "Status", "code": code, "reason": "Expired"}))
    assert caught.value.status == code


@pytest.mark.parametrize(
    "line",
    [
        b"garbage\n",
        b"{}\n",
        b"null\n",
        b"[" * 100_000 + b"\n",
        b"\xff\n",
        event("ADDED", None),
        event("ADDED", {}),
        event("ADDED", item(name="")),
        event("ADDED", item(version="")),
        event("BOOKMARK", item(version="")),
        event("SURPRISE", item()),
    ],
)
async def test_unreadable_event_is_an_error_that_does_not_quote_it(started: Running, line: bytes) -> None:
    with pytest.raises(client.UnreadableAnswerError) as caught:
        await started.events(line)
    assert "garbage" not in str(caught.value)


async def test_refusal_has_status_and_reason_but_no_data_of_a_secret(started: Running) -> None:
    body = json.dumps({"reason": "Invalid", "message": "s3cret is not valid"}).encode()
    started.server.answers = [(422, body), (422, body)]
    for path, is_quoted in (("/api/v1/namespaces/a/secrets/b", False), ("/api/v1/namespaces/a/configmaps/b", True)):
        with pytest.raises(client.ApiError, match="422 Invalid") as caught:
            await started.client.apply(path, {})
        assert ("s3cret" in str(caught.value)) == is_quoted


@pytest.mark.parametrize("plural", ["ingresses", "httproutes"])
async def test_refusal_of_a_route_shows_no_path_of_a_url(started: Running, plural: str) -> None:
    message = 'denied: path "/hooks/~Zx81" with /v1/s3cret, at hooks.example.org/v1/s3cret is not allowed'
    started.server.answers = [(422, json.dumps({"reason": "Invalid", "message": message}).encode())]
    with pytest.raises(client.ApiError) as caught:
        await started.client.apply(f"/apis/group/v1/namespaces/a/{plural}/b", {})
    assert 'denied: path "/…" with /…, at hooks.example.org/… is not allowed' in str(caught.value)


async def test_refused_request_is_sent_again_and_counted() -> None:
    counted: list[tuple[str, int]] = []
    async with running(count_request=lambda verb, status: counted.append((verb, status))) as started_client:
        started_client.server.answers = [(429, b""), (500, b""), (200, b"{}")]
        assert await started_client.client.get("/api/v1/namespaces/a") == {}
    assert counted == [("get", 429), ("get", 500), ("get", 200)]


@pytest.mark.parametrize("status", [302, 400, 403, 404, 409])
async def test_final_refusal_is_not_sent_again(started: Running, status: int) -> None:
    started.server.answers = [(status, b"")]
    with pytest.raises(client.ApiError) as caught:
        await started.client.get("/api/v1/namespaces/a")
    assert caught.value.status == status


async def test_write_is_not_sent_without_the_lease() -> None:
    async with running(may_write=lambda: False) as started_client:
        with pytest.raises(client.ApiError, match="NotLeader"):
            await started_client.client.apply("/api/v1/namespaces/a", {})
        assert started_client.server.asked == []


@hypothesis.given(strategies.lists(strategies.binary(max_size=20), max_size=8), strategies.data())
def test_lines_are_whole_wherever_the_stream_is_cut(lines: list[bytes], data: strategies.DataObject) -> None:
    expected = [line.replace(b"\n", b"x") for line in lines]
    stream = b"".join(line + b"\n" for line in expected)
    cuts = sorted(data.draw(strategies.lists(strategies.integers(0, len(stream)), max_size=8)))
    splitter, read_lines = client.LineSplitter(1000), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        read_lines += splitter.feed(stream[start:end])
    assert read_lines == [line for line in expected if line.strip()]


async def test_line_without_an_end_is_not_kept() -> None:
    async with running(limits=client.ClientLimits(line_bytes=100)) as started_client:
        with pytest.raises(client.UnreadableAnswerError, match="more than 100 bytes"):
            await started_client.events(b"x" * 120)


def test_many_short_lines_are_not_a_long_line() -> None:
    splitter = client.LineSplitter(max_line_bytes=100)
    assert sum(len(splitter.feed(b"x" * 30 + b"\n")) for _ in range(50)) == 50
    assert len(splitter.feed(b"y\n" * 500)) == 500
