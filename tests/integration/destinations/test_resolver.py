"""The resolver and its real threads, with lookups that are slow, silent or fail."""

import asyncio
import socket
import threading

import pytest
from aiohttp.abc import ResolveResult

from usher_gateway.destinations import resolver


class Names:
    """A lookup that answers, fails (``none.…``) or waits for an event (``silent.…``), and records the names."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.speak = threading.Event()
        self.is_broken = False  # If True, every lookup fails

    def __call__(self, host: str, port: int) -> list[resolver.SocketAddress]:
        self.asked.append(host)
        if host.startswith("silent") and not self.is_broken:
            self.speak.wait(20)
        if host.startswith("none") or self.is_broken:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, ("192.0.2.1", port))]


async def test_name_is_looked_up_once_for_concurrent_callers() -> None:
    names, now = Names(), [0.0]
    name_resolver = resolver.Resolver(names, lambda: now[0])
    await asyncio.gather(*[name_resolver.resolve("a.example", 80) for _ in range(20)])
    now[0] += resolver.FRESH_SECONDS - 1
    (address,) = await name_resolver.resolve("a.example", 80)
    assert (address["host"], address["port"], address["family"]) == ("192.0.2.1", 80, socket.AF_INET)
    assert names.asked == ["a.example"]
    await name_resolver.close()


async def test_stale_addresses_are_returned_during_a_new_lookup() -> None:
    names, now = Names(), [0.0]
    name_resolver = resolver.Resolver(names, lambda: now[0])
    await name_resolver.resolve("a.example", 80)
    now[0] += resolver.FRESH_SECONDS
    async with asyncio.timeout(60):
        assert await name_resolver.resolve("a.example", 80)
        await idle(name_resolver)
    assert names.asked == ["a.example"] * 2
    await name_resolver.close()


async def test_unknown_name_is_looked_up_again_soon() -> None:
    names, now = Names(), [0.0]
    name_resolver = resolver.Resolver(names, lambda: now[0])
    for expected in (1, 1, 2):
        with pytest.raises(OSError, match="no address"):
            await name_resolver.resolve("none.example", 80)
        assert len(names.asked) == expected
        now[0] += resolver.FAILURE_SECONDS / 2
    await name_resolver.close()


async def idle(name_resolver: resolver.Resolver) -> None:
    """Wait for the running lookups."""
    await asyncio.gather(*name_resolver._running.values())


async def fail(name_resolver: resolver.Resolver, names: Names, host: str, namespace: str = "") -> None:
    """Let the lookup of a name fail."""
    names.is_broken = True
    with pytest.raises(OSError, match="no address"):
        await name_resolver.resolve(host, 80, namespace=namespace)
    names.is_broken = False


async def test_failed_lookup_keeps_the_addresses_that_were_found_before() -> None:
    names, now = Names(), [0.0]
    name_resolver = resolver.Resolver(names, lambda: now[0])
    await name_resolver.resolve("a.example", 80)
    names.is_broken = True
    now[0] += resolver.FRESH_SECONDS
    for expected in (2, 2, 3):
        assert await name_resolver.resolve("a.example", 80)
        await idle(name_resolver)
        assert len(names.asked) == expected, "the name is looked up again FAILURE_SECONDS after a failure"
        now[0] += resolver.FAILURE_SECONDS / 2
    now[0] += resolver.STALE_SECONDS
    with pytest.raises(OSError, match="no address"):
        await name_resolver.resolve("a.example", 80)
    await name_resolver.close()


async def test_silent_names_of_a_namespace_do_not_delay_those_of_another() -> None:
    names, now = Names(), [0.0]
    name_resolver = resolver.Resolver(names, lambda: now[0])
    await fail(name_resolver, names, "good.example", "quiet")
    for number in range(160):
        await fail(name_resolver, names, f"silent{number}.example", "loud")
    now[0] += resolver.FAILURE_SECONDS
    waiting = [
        asyncio.create_task(name_resolver.resolve(f"silent{number}.example", 80, namespace="loud"))
        for number in range(320)
    ]
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        assert await name_resolver.resolve("good.example", 80, namespace="quiet")
        assert await name_resolver.resolve("new.example", 80, namespace="quiet")
    await stop(names, waiting)
    await name_resolver.close()


async def test_names_with_the_fewest_failures_are_looked_up_first() -> None:
    names, now = Names(), [0.0]
    name_resolver = resolver.Resolver(names, lambda: now[0])
    failing_names = ["1.example", "2.example", "3.example"]
    silent = [f"silent{number}.example" for number in range(64)]
    for count in range(4):
        for name in [*silent, *failing_names[count:]]:
            await fail(name_resolver, names, name)
        now[0] += resolver.FAILURE_SECONDS
    waiting = [asyncio.create_task(name_resolver.resolve(name, 80)) for name in silent]
    await asyncio.sleep(0)
    waiting += [asyncio.create_task(name_resolver.resolve(name, 80)) for name in reversed(failing_names)]
    await asyncio.sleep(0)
    names.asked.clear()
    names.speak.set()
    await asyncio.gather(*waiting)
    asked = [name for name in names.asked if name in failing_names]
    assert asked == failing_names
    assert names.asked.index(failing_names[-1]) < 32, "the names that have failed most are last"
    await name_resolver.close()


async def stop(names: Names, waiting: list[asyncio.Task[list[ResolveResult]]]) -> None:
    """Let the silent lookups end."""
    for task in waiting:
        task.cancel()
    names.speak.set()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_cancelled_caller_does_not_stop_the_lookup() -> None:
    names = Names()
    name_resolver = resolver.Resolver(names)
    first, second = (asyncio.create_task(name_resolver.resolve("silent.example", 80)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    names.speak.set()
    async with asyncio.timeout(60):
        assert await second
    await name_resolver.close()
