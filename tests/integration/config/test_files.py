"""A gateway follows manifests on disk. A mistake, a slow editor or an absent file removes nothing."""

import asyncio
import contextlib
import json
import os
import pathlib
import time
from collections.abc import AsyncIterator, Callable

import pytest
import structlog

from support import certificates, followers
from usher_gateway import documents, model
from usher_gateway.config import file_reading, files

KEYS = model.derive_keys(bytes(32))
TENANT = "apiVersion: usher.dev/v1alpha1\nkind: Tenant\nmetadata: {name: acme}\n---\n"
Following = followers.Follower[files.FileSource]


def listener(name: str, state: str = "Active") -> str:
    return (
        f"apiVersion: usher.dev/v1alpha1\nkind: Listener\nmetadata: {{name: {name}}}\n"
        f"spec: {{tenantRef: {{name: acme}}, state: {state}}}\n---\n"
    )


@contextlib.asynccontextmanager
async def following(
    *paths: pathlib.Path,
    poll_seconds: float = 60.0,
    settle_seconds: float = 0.05,
    now: Callable[[], int] = lambda: 0,
) -> AsyncIterator[Following]:
    options = files.FileOptions(keys=KEYS, poll_seconds=poll_seconds, settle_seconds=settle_seconds)
    follower = followers.Follower(files.FileSource(paths, options, now=now))
    try:
        yield follower
    finally:
        await follower.close()


def names_of(snapshot: documents.Snapshot) -> list[str]:
    return sorted(listener.name for listener in snapshot.listeners.values())


def suspended(follower: Following, name: str) -> Callable[[], bool]:
    return lambda: follower.snapshots[-1].listeners[f"default/{name}"].state == "Suspended"


async def test_mistake_that_hides_everything_blocks_the_first_start(
    tmp_path: pathlib.Path,
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("spec: {}\n---\n" + listener("a"))
    async with following(tmp_path) as follower:
        await follower.until(lambda: bool(follower.source.status().rejected))
        assert f"{file}:1;" in follower.source.status().waits_for
        assert follower.snapshots == []
        file.write_text(TENANT + listener("a"))
        await follower.until_runs("a")
        assert follower.source.status().waits_for == ""
        assert not follower.source.status().rejected


async def test_certificate_that_ends_without_an_edit_is_reported(tmp_path: pathlib.Path) -> None:
    certificate, key = (part.decode() for part in certificates.make("client", days=1))
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "client"}}
    tls = {"clientCertificateSecretRef": {"name": "client"}}
    destination = {
        "apiVersion": "usher.dev/v1alpha1",
        "kind": "Destination",
        "metadata": {"name": "crm"},
        "spec": {"type": "HTTP", "http": {"url": "https://crm.example", "tls": tls}},
    }
    parts = [{**secret, "stringData": {"tls.crt": certificate, "tls.key": key}}, destination]
    (tmp_path / "a.yaml").write_text(TENANT + listener("a") + "\n---\n".join(map(json.dumps, parts)))
    clock = time.time_ns() // 1000
    async with following(tmp_path, poll_seconds=0.05, now=lambda: clock) as follower:
        await follower.until_runs("a")
        assert not any("ended on" in problem.message for problem in follower.source.configuration.problems)
        clock += 2 * model.DAY
        await follower.until(
            lambda: any("ended on" in problem.message for problem in follower.source.configuration.problems)
        )


async def test_pipe_among_the_files_does_not_block(tmp_path: pathlib.Path) -> None:
    pipe = tmp_path / "pipe.yaml"
    (tmp_path / "a.yaml").write_text(TENANT + listener("a"))
    async with following(tmp_path) as follower:
        await follower.until_runs("a")
        os.mkfifo(pipe)
        try:
            (tmp_path / "a.yaml").write_text(TENANT + listener("a", "Suspended"))
            await follower.until(suspended(follower, "a"))
            assert [problem.file for problem in follower.source.status().rejected] == [str(pipe)]
        finally:
            os.close(os.open(pipe, os.O_RDWR))  # unblocks a reader that waits for the pipe


@pytest.mark.parametrize("tries", [2, files._SETTLE_TRIES])
async def test_slowly_written_file_removes_nothing_before_its_end(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, tries: int
) -> None:
    monkeypatch.setattr(files, "_SETTLE_TRIES", tries)
    file = tmp_path / "a.yaml"
    file.write_text(TENANT + listener("a") + listener("b"))
    async with following(tmp_path) as follower:
        await follower.until_runs("a", "b")
        pieces, read = [*["# a comment\n"] * 12, listener("a") + listener("c")], follower.source._reader.read

        def write_and_read() -> file_reading.FileReading:
            if pieces:
                with file.open("a") as opened:
                    opened.write(pieces.pop(0))
            return read()

        monkeypatch.setattr(follower.source._reader, "read", write_and_read)
        file.write_text(TENANT)
        await follower.until_runs("a", "c")
        assert all("default/a" in snapshot.listeners for snapshot in follower.snapshots)


async def test_rename_over_a_single_file_is_followed(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(TENANT + listener("a"))
    async with following(file) as follower:
        await follower.until_runs("a")
        for state in ("Suspended", "Active", "Suspended"):
            draft = tmp_path / ".a.yaml.swp"
            draft.write_text(TENANT + listener("a", state))
            draft.replace(file)
            await follower.until(lambda state=state: follower.snapshots[-1].listeners["default/a"].state == state)  # type: ignore[misc]


async def test_symlink_swap_of_a_mounted_volume_is_followed(tmp_path: pathlib.Path) -> None:
    def publish(version: str, state: str) -> None:
        folder = tmp_path / f"..{version}"
        folder.mkdir()
        (folder / "a.yaml").write_text(TENANT + listener("a", state))
        link = tmp_path / "..data_tmp"
        link.symlink_to(folder.name)
        link.replace(tmp_path / "..data")

    publish("2026_1", "Active")
    (tmp_path / "a.yaml").symlink_to(pathlib.Path("..data", "a.yaml"))
    async with following(tmp_path) as follower:
        await follower.until_runs("a")
        publish("2026_2", "Suspended")
        await follower.until(suspended(follower, "a"))


async def test_deleted_file_and_deleted_object_are_removed(tmp_path: pathlib.Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(TENANT + listener("a") + listener("b"))
    second.write_text(listener("c"))
    async with following(tmp_path) as follower:
        await follower.until_runs("a", "b", "c")
        second.unlink()
        await follower.until_runs("a", "b")
        first.write_text(TENANT + listener("a"))
        await follower.until_runs("a")


@pytest.mark.parametrize("way", ["emptied folder", "folder renamed", "truncated file"])
async def test_empty_or_absent_path_removes_nothing(tmp_path: pathlib.Path, way: str) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    file = folder / "a.yaml"
    file.write_text(TENANT + listener("a"))
    async with following(folder, poll_seconds=0.2) as follower:
        await follower.until_runs("a")
        if way == "emptied folder":
            file.unlink()
        elif way == "folder renamed":
            folder.rename(tmp_path / "elsewhere")
        else:
            file.write_text("")
        reading = follower.source.configuration
        await follower.until(lambda: follower.source.configuration is not reading)
        assert names_of(follower.source.configuration.snapshot) == ["a"]
        hints = [problem.hint for problem in follower.source.configuration.problems]
        assert any("a gateway that runs keeps what it held before" in hint for hint in hints)
        folder.mkdir(exist_ok=True)
        file.write_text(TENANT + listener("a", "Suspended"))
        await follower.until(suspended(follower, "a"))


async def test_no_snapshot_before_anything_can_run(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "later"
    async with following(folder, poll_seconds=0.1) as follower:
        await asyncio.wait([follower._task], timeout=0.3)
        assert follower.snapshots == []
        folder.mkdir()
        (folder / "a.yaml").write_text(TENANT + listener("a"))
        await follower.until_runs("a")


async def test_edit_that_fails_to_compile_keeps_the_configuration(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(TENANT + listener("a"))
    async with following(tmp_path) as follower:
        await follower.until_runs("a")
        tried = asyncio.Event()
        loop = asyncio.get_running_loop()

        def fail(*_: object, **_options: object) -> files.FileConfiguration:
            loop.call_soon_threadsafe(tried.set)
            raise ValueError

        with monkeypatch.context() as patch:
            patch.setattr(files, "apply_reading", fail)
            file.write_text(TENANT + listener("a") + listener("b"))
            async with asyncio.timeout(followers.LIMIT_SECONDS):
                await tried.wait()
        assert names_of(follower.source.configuration.snapshot) == ["a"]
        file.write_text(TENANT + listener("a") + listener("c"))
        await follower.until_runs("a", "c")


async def test_renamed_listener_is_logged_as_removed_by_name(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(TENANT + listener("a") + listener("b"))
    with structlog.testing.capture_logs() as logs:
        async with following(tmp_path) as follower:
            await follower.until_runs("a", "b")
            file.write_text(TENANT + listener("aa") + listener("b"))
            await follower.until_runs("aa", "b")
    first, renamed = [line for line in logs if line["event"] == "configuration_applied"]
    assert (first["removed"], "removed_objects" in first) == (0, False)
    assert (renamed["removed"], renamed["removed_objects"]) == (1, ["Listener default/a"])


async def test_notice_is_not_logged_as_a_problem(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.yaml").write_text(TENANT + listener("a"))
    with structlog.testing.capture_logs() as logs:
        async with following(tmp_path) as follower:
            await follower.until_runs("a")
    (notice,) = [line for line in logs if line["event"] == "configuration_notice_found"]
    assert (notice["log_level"], notice["resource"]) == ("info", "ListenerClass")
    assert "configuration_problem_found" not in {line["event"] for line in logs}


async def test_consequences_of_a_mistake_are_one_log_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.yaml").write_text(TENANT.replace("acme}", "acme}\nspec: {state: x}") + listener("a") + listener("b"))
    with structlog.testing.capture_logs() as logs:
        async with following(tmp_path) as follower:
            await follower.until(lambda: bool(follower.source.status().rejected))
    told = [(line["log_level"], line["event"]) for line in logs if line["log_level"] != "info"]
    assert told == [
        ("error", "configuration_problem_found"),
        ("warning", "configuration_partly_applied"),
        ("error", "configuration_postponed"),
    ]
    assert [line["objects"] for line in logs if "objects" in line] == [2]


async def test_file_that_is_written_in_place_slowly_removes_nothing(tmp_path: pathlib.Path) -> None:
    """Such as by `scp` over a slow line: what is there so far is a valid manifest."""
    file, text = tmp_path / "a.yaml", TENANT + listener("a") + listener("b")
    file.write_text(text)
    async with following(tmp_path) as follower:
        await follower.until_runs("a", "b")
        with file.open("w") as opened:
            opened.write(TENANT + listener("a"))
            opened.flush()
            await asyncio.sleep(1)  # far longer than two readings take
            opened.write(listener("b", "Suspended"))
        await follower.until(suspended(follower, "b"))
        assert [names_of(snapshot) for snapshot in follower.snapshots] == [["a", "b"]] * len(follower.snapshots)
        file.write_text(TENANT + listener("a"))
        await follower.until_runs("a")


@pytest.mark.parametrize("ahead", [0, 600, -600], ids=["own clock", "server's clock ahead", "server's clock behind"])
async def test_file_that_ends_within_a_line_is_not_applied(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    monkeypatch.setattr(files, "_UNFINISHED_SECONDS", 60.0)
    (tmp_path / "a.yaml").write_text(TENANT + listener("a"))
    async with following(tmp_path) as follower:
        await follower.until_runs("a")
        readings, read = [], follower.source._reader.read

        def count_and_read() -> file_reading.FileReading:
            readings.append(read())
            return readings[-1]

        monkeypatch.setattr(follower.source._reader, "read", count_and_read)
        with (tmp_path / "b.yaml").open("w") as opened:
            opened.write(listener("b").removesuffix("\n---\n"))
            opened.flush()
            os.utime(opened.fileno(), (time.time() + ahead,) * 2)
            await follower.until(lambda: len(readings) > 5)
            assert names_of(follower.snapshots[-1]) == ["a"]
            opened.write("\n")
        await follower.until_runs("a", "b")


async def test_file_that_ended_within_a_line_long_before_the_start_is_not_waited_for(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_UNFINISHED_SECONDS", 600.0)
    file = tmp_path / "a.yaml"
    file.write_text((TENANT + listener("a")).removesuffix("\n---\n"))
    os.utime(file, (time.time() - 601,) * 2)
    async with following(tmp_path) as follower:
        await follower.until_runs("a")
        assert follower.source.status().everything_read


# Folders in a folder


async def test_folder_that_becomes_a_link_removes_nothing(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "manifests"
    (folder / "agency").mkdir(parents=True)
    (folder / "agency" / "a.yaml").write_text(TENANT + listener("a"))
    (folder / "b.yaml").write_text(listener("b"))
    async with following(folder, poll_seconds=0.1) as follower:
        await follower.until_runs("a", "b")
        (folder / "agency").rename(tmp_path / "elsewhere")
        (folder / "agency").symlink_to(tmp_path / "elsewhere")
        await follower.until(lambda: bool(follower.source.status().rejected))
        (problem,) = follower.source.status().rejected
        assert (problem.file, "a link to a folder" in problem.message) == (str(folder / "agency"), True)
        assert follower.listeners == ["a", "b"]


async def test_folder_that_cannot_be_read_removes_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "agency").mkdir()
    (tmp_path / "agency" / "a.yaml").write_text(TENANT + listener("a"))
    (tmp_path / "b.yaml").write_text(listener("b"))
    scandir = os.scandir

    def scandir_without_permission(path: str) -> object:
        if str(path).endswith("agency"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    async with following(tmp_path, poll_seconds=0.1) as follower:
        await follower.until_runs("a", "b")
        monkeypatch.setattr(os, "scandir", scandir_without_permission)
        await follower.until(lambda: bool(follower.source.status().rejected))
        (problem,) = follower.source.status().rejected
        assert (problem.file, problem.message) == (str(tmp_path / "agency"), "cannot be read")
        assert follower.listeners == ["a", "b"]
