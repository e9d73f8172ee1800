"""The reasons for which a machine cannot run a node."""

import os
from pathlib import Path

import pytest

from local_cluster import __main__ as command
from local_cluster import debian, node_machine


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the only one on PATH, on a machine on which this user is root."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(debian, "FOR_ADMINISTRATORS", ())
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path


def install(folder: Path, name: str, script: str = "exit 0") -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_ordinary_user_cannot_run_a_node(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("sys.argv", ["local_cluster", "can-run-node"])
    assert command.main() == 1
    assert "needs Linux and root" in capsys.readouterr().out


def test_missing_programs_are_named_where_they_cannot_be_installed(programs: Path) -> None:
    problem = node_machine.problem()
    assert problem is not None
    assert problem.startswith("A node needs conntrack, containerd, ")
    assert "no apt-get" in problem


def test_refusal_of_the_kernel_is_named(programs: Path) -> None:
    for name in ("apt-get", "ip"):
        install(programs, name)
    install(programs, "unshare", "echo 'unshare: unshare failed: Operation not permitted' >&2; exit 1")
    assert node_machine.problem() == (
        "A node needs a mount in namespaces of its own, which this machine refuses:"
        " unshare: unshare failed: Operation not permitted"
    )
