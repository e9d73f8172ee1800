"""New beginnings of a watch are noticed, though kopf does not tell of them."""

import logging

import pytest

from usher_operator import handlers, kinds


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def relists(clock: Clock) -> handlers.Relists:
    return handlers.Relists(clock)


def test_the_first_list_is_no_new_beginning(relists: handlers.Relists) -> None:
    assert not any(relists.is_new("Listener", is_listed=True) for _ in range(100))


def test_a_list_after_events_is_one_and_is_told_once(relists: handlers.Relists) -> None:
    relists.is_new("Listener", is_listed=True)
    assert not relists.is_new("Listener", is_listed=False)
    assert relists.is_new("Listener", is_listed=True)
    assert not relists.is_new("Listener", is_listed=True)


def test_a_list_long_after_the_first_is_one(relists: handlers.Relists, clock: Clock) -> None:
    relists.is_new("Listener", is_listed=True)
    clock.now += 60
    assert relists.is_new("Listener", is_listed=True)


def test_kinds_are_told_apart(relists: handlers.Relists) -> None:
    relists.is_new("Listener", is_listed=True)
    relists.is_new("Tenant", is_listed=False)
    assert not relists.is_new("Listener", is_listed=True)
    assert relists.is_new("Tenant", is_listed=True)


class Asked:
    """Notes which kinds are to be read."""

    def __init__(self) -> None:
        self.kinds = kinds.WATCHED_BY_KOPF
        self.asked: list[kinds.WatchedKind] = []

    def ask(self, kind: kinds.WatchedKind) -> None:
        self.asked.append(kind)


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("Restarting the watch-stream for listeners.v1alpha1.usher.dev cluster-wide.", [kinds.LISTENER]),
        ("Restarting the watch-stream for secrets.v1 cluster-wide.", [kinds.CREDENTIAL]),
        ("Restarting the watch-stream for clusterissuers.v1.cert-manager.io cluster-wide.", [kinds.CLUSTER_ISSUER]),
        ("Starting the watch-stream for listeners.v1alpha1.usher.dev cluster-wide.", []),
    ],
)
def test_kopfs_own_words_are_understood(text: str, asked: list[kinds.WatchedKind]) -> None:
    reader = Asked()
    watcher = handlers.RestartWatcher(reader)  # type: ignore[arg-type]
    record = logging.LogRecord("kopf", logging.DEBUG, "", 0, text, (), None)
    assert not watcher.filter(record), "nothing of that is for the log"
    assert reader.asked == asked
