"""The resolver and its real threads, with lookups that are slow, silent or fail."""

import asyncio
import socket
import threading

import pytest

from usher_gateway.destinations import resolver


class Names:
    """A lookup that answers, fails (``none.…``) or waits for an event (``silent.…``), and records the names."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.speak = threading.Event()

    def __call__(self, host: str, port: int) -> list[resolver.SocketAddress]:
        self.asked.append(host)
        if host.startswith("silent"):
            self.speak.wait(20)
        if host.startswith("none"):
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, ("192.0.2.1", port))]


async def test_name_is_looked_up_once_for_concurrent_callers() -> None:
    names, now = Names(), [0.0]
    made = resolver.Resolver(names, lambda: now[0])
    await asyncio.gather(*[made.resolve("a.example", 80) for _ in range(20)])
    now[0] += resolver.FRESH_SECONDS - 1
    (found,) = await made.resolve("a.example", 80)
    assert (found["host"], found["port"], found["family"]) == ("192.0.2.1", 80, socket.AF_INET)
    assert names.asked == ["a.example"]
    await made.close()


async def test_stale_addresses_are_returned_during_a_new_lookup() -> None:
    names, now = Names(), [0.0]
    made = resolver.Resolver(names, lambda: now[0])
    await made.resolve("a.example", 80)
    now[0] += resolver.FRESH_SECONDS
    async with asyncio.timeout(5):
        assert await made.resolve("a.example", 80)
        await made._running["a.example", 80]
    assert names.asked == ["a.example"] * 2
    await made.close()


async def test_unknown_name_is_looked_up_again_soon() -> None:
    names, now = Names(), [0.0]
    made = resolver.Resolver(names, lambda: now[0])
    for expected in (1, 1, 2):
        with pytest.raises(OSError, match="no address"):
            await made.resolve("none.example", 80)
        assert len(names.asked) == expected
        now[0] += resolver.FAILURE_SECONDS / 2
    await made.close()


async def test_slow_names_do_not_delay_fast_ones() -> None:
    names = Names()
    made = resolver.Resolver(names)
    broken = [f"silent{number}.example" for number in range(200)]
    made._slow_names |= set(broken)
    waiting = [asyncio.create_task(made.resolve(name, 80)) for name in broken]
    async with asyncio.timeout(5):
        assert await made.resolve("good.example", 80)
    for task in waiting:
        task.cancel()
    names.speak.set()
    await asyncio.gather(*waiting, return_exceptions=True)
    await made.close()


async def test_cancelled_caller_does_not_stop_the_lookup() -> None:
    names = Names()
    made = resolver.Resolver(names)
    first, second = (asyncio.create_task(made.resolve("silent.example", 80)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    names.speak.set()
    async with asyncio.timeout(5):
        assert await second
    await made.close()
