"""Pages and lines of an API server: what is read, and what is not believed."""

import json

import hypothesis
import pytest
from hypothesis import strategies

from usher_gateway.config import published, watch_stream


def item(**metadata: object) -> dict[str, object]:
    found = {"name": "listener-1", "resourceVersion": "7", "annotations": {"usher.dev/owner": "acme/wifi"}, **metadata}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": found, "data": {"config.json": "e30="}}


def page(**changes: object) -> bytes:
    value = {"kind": "SecretList", "metadata": {"resourceVersion": "9"}, "items": [item()], **changes}
    return json.dumps(value).encode()


def event(type_: str, found: object) -> bytes:
    return json.dumps({"type": type_, "object": found}).encode()


def test_a_page_is_read() -> None:
    found = watch_stream.read_page(page(metadata={"resourceVersion": "9", "continue": "abc", "remainingItemCount": 3}))
    secret = published.Secret("listener-1", "7", "acme/wifi", {"config.json": "e30="})
    assert found == watch_stream.Page([secret], "9", "abc")


def test_the_last_page_has_no_next_one() -> None:
    assert watch_stream.read_page(page()).more == ""
    assert watch_stream.read_page(page(items=None)).secrets == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        page(kind="PodList"),
        page(kind="Status"),
        page(metadata={}),
        page(metadata={"resourceVersion": ""}),
        page(items=[1]),
        page(items=[{"data": {}}]),
    ],
)
def test_what_is_no_list_is_not_an_empty_one(content: bytes) -> None:
    with pytest.raises(watch_stream.FeedError):
        watch_stream.read_page(content)


@pytest.mark.parametrize(
    ("type_", "wanted"), [("ADDED", "Put"), ("MODIFIED", "Put"), ("DELETED", "Gone"), ("BOOKMARK", "Bookmark")]
)
def test_an_event_is_read(type_: str, wanted: str) -> None:
    found = watch_stream.read_event(event(type_, item()))
    assert (found.type, found.secret.version) == (wanted, "7")


def test_a_bookmark_has_only_a_version() -> None:
    bookmark = event("BOOKMARK", {"kind": "Secret", "metadata": {"resourceVersion": "12", "creationTimestamp": None}})
    assert watch_stream.read_event(bookmark).secret.version == "12"


def test_too_old_a_version_is_told_apart() -> None:
    with pytest.raises(watch_stream.ExpiredError):
        watch_stream.read_event(event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired"}))
    with pytest.raises(watch_stream.AnswerError, match="500"):
        watch_stream.read_event(event("ERROR", {"kind": "Status", "code": 500}))


@pytest.mark.parametrize(
    "line",
    [
        b"garbage",
        b"{}",
        b"null",
        b"[" * 100_000,
        b"\xff",
        event("ADDED", None),
        event("ADDED", {}),
        event("ADDED", item(name="")),
        event("ADDED", item(resourceVersion="")),
        event("BOOKMARK", item(resourceVersion="")),
        event("SURPRISE", item()),
    ],
)
def test_garbage_is_told_without_its_words(line: bytes) -> None:
    with pytest.raises(watch_stream.FeedError) as caught:
        watch_stream.read_event(line)
    assert "garbage" not in str(caught.value)


@hypothesis.given(strategies.lists(strategies.binary(max_size=20), max_size=8), strategies.data())
@hypothesis.settings(max_examples=100)
def test_lines_are_whole_however_they_come(lines: list[bytes], data: strategies.DataObject) -> None:
    wanted = [line.replace(b"\n", b"x") for line in lines]
    stream = b"".join(line + b"\n" for line in wanted)
    cuts = sorted(data.draw(strategies.lists(strategies.integers(0, len(stream)), max_size=8)))
    cutter, found = watch_stream.Lines(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += cutter.feed(stream[start:end])
    assert found == [line for line in wanted if line.strip()]


def test_a_line_without_end_is_not_kept_for_ever() -> None:
    cutter = watch_stream.Lines(max_line_bytes=100)
    cutter.feed(b"x" * 60)
    with pytest.raises(watch_stream.FeedError, match="more than 100 bytes"):
        cutter.feed(b"x" * 60)


def test_a_long_stream_of_short_lines_is_no_long_line() -> None:
    cutter = watch_stream.Lines(max_line_bytes=100)
    assert sum(len(cutter.feed(b"x" * 30 + b"\n")) for _ in range(50)) == 50
    assert len(cutter.feed(b"y\n" * 500)) == 500
