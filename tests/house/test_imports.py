"""Where the outside world may be known: each large library in few places, and nowhere else."""

from pathlib import Path

import pytest

from house import source

PLACES = {
    "aiohttp": (
        "gateway/src/usher_gateway/destinations/",
        "gateway/src/usher_gateway/config/list_watch.py",
        "gateway/src/usher_gateway/admin/",
        "gateway/src/usher_gateway/observe.py",  # it opens the admin port
        "gateway/src/usher_gateway/simulator/",
        "gateway/src/usher_gateway/cli/",
        "operator/src/usher_operator/api.py",
        "operator/src/usher_operator/health.py",
        "operator/src/usher_operator/observe.py",
    ),
    "httptools": ("gateway/src/usher_gateway/ingest/http_parser.py",),
    "kopf": ("operator/",),
    "sqlite3": ("gateway/src/usher_gateway/store/sqlite/",),
    "asyncpg": ("gateway/src/usher_gateway/store/postgres/",),
    "yaml": (
        "gateway/src/usher_gateway/resources/",
        "gateway/src/usher_gateway/config/cluster_access.py",
        "operator/",
    ),
    "cryptography": ("gateway/src/usher_gateway/config/last_good.py",),
    "cel": ("gateway/src/usher_gateway/expressions.py",),
    "prometheus_client": (
        "gateway/src/usher_gateway/metrics.py",
        "gateway/src/usher_gateway/observe.py",
        "gateway/src/usher_gateway/admin/",
        "operator/",
    ),
    "watchfiles": ("gateway/src/usher_gateway/config/from_files.py",),
    "typer": ("gateway/src/usher_gateway/cli/", "operator/src/usher_operator/cli.py"),
}
"""Library -> where it may be imported. Everything else is free of it, and can be tested without it."""


@pytest.mark.parametrize("file", source.python_files(source.GATEWAY, source.OPERATOR), ids=source.shown)
def test_a_library_is_known_only_in_its_place(file: Path) -> None:
    known = {name.partition(".")[0] for name in source.imports(file)}
    strays = {name for name in known & PLACES.keys() if not source.shown(file).startswith(PLACES[name])}
    assert strays == set()


def test_the_operator_shadows_no_module_of_the_standard_library() -> None:
    """A folder `operator` with an `__init__.py` would be imported in place of the standard library's `operator`."""
    assert not (source.ROOT / "operator" / "__init__.py").exists()


def test_the_operator_imports() -> None:
    import usher_operator

    assert Path(usher_operator.__file__).parent == source.OPERATOR


@pytest.mark.parametrize("file", source.python_files(source.OPERATOR), ids=source.shown)
def test_the_operator_shares_words_not_machinery(file: Path) -> None:
    names = ("model", "documents", "envelopes", "resources", "logs")
    shared = tuple(f"usher_gateway.{name}" for name in names)
    ours = {name for name in source.imports(file) if name.split(".")[0] == "usher_gateway"}
    assert {name for name in ours if not f"{name}.".startswith(tuple(f"{each}." for each in shared))} == set()
