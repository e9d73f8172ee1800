"""Migrations, which bring a store's tables up to date, and the table versions that this gateway can use.

Each engine has a folder ``migrations`` with numbered scripts. The last one's number is the tables' version.
A migration only expands the tables, so that older gateways can still run on them. Tables older than the first script
have a version from before the first release, and are refused.
"""

import importlib.resources

import msgspec

from usher_gateway import model

MIN_GATEWAY = "0.1.0"  # The oldest gateway that can run on these tables


class Migration(msgspec.Struct, frozen=True):
    """A step that brings the tables from one version to the next."""

    number: int
    """The tables' version after it."""
    title: str
    sql: str


def all_migrations(engine: str) -> list[Migration]:
    """Return every migration that this release knows, in order. ``engine``: its package."""
    migrations = []
    for script in (importlib.resources.files(engine) / "migrations").iterdir():
        name, dot, ending = script.name.rpartition(".")
        if dot and ending == "sql":
            number, _, title = name.partition("_")
            migrations.append(Migration(int(number), title.replace("_", " "), script.read_text("utf-8")))
    return sorted(migrations, key=lambda migration: migration.number)


def check_version(version: int, oldest_gateway: str | None, *, first: int) -> None:
    """Check that this gateway can use the tables' version. ``first``: the one that the first migration makes.

    Raises:
        ConfigurationError: this gateway is too old for the tables, or they are too old for it.
    """
    from usher_gateway import __version__

    if oldest_gateway is not None and _numbers(__version__) < _numbers(oldest_gateway):
        raise model.ConfigurationError(
            f"the store needs Usher {oldest_gateway} or later, this is {__version__}", "Run the newer release again."
        )
    if version < first:
        raise model.ConfigurationError(
            f"the store has tables of version {version}, and this Usher needs {first} or later",
            "A version before the first release made it. Name an empty folder or an empty database.",
        )


def check_fingerprint(stored: str | None, key_fingerprint: str) -> None:
    """Check that no other install key made a store. ``stored``: the fingerprint in it; None: it has none yet.

    Raises:
        InstallKeyError: another install key made it.
    """
    if stored not in {None, key_fingerprint}:
        raise model.InstallKeyError(
            "another install key made this store",
            "Use the same install.key or USHER_INSTALL_KEY as before, because URLs and keyed hashes depend on it.",
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3])
