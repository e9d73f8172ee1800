"""``usher repair`` on a real database."""

import asyncio
import sys
from pathlib import Path

from support import databases, engines, samples


async def test_repair_says_what_it_would_do_and_acts_when_it_is_confirmed(tmp_path: Path) -> None:
    engine = engines.Postgresql()
    async with engines.opened(engine) as bench:
        await bench.accept(samples.arrival("a"))
        await bench.store.flush()
        name = databases.name_of(bench.place)
        databases.server().execute("delete from listeners; delete from routes; delete from destinations", name)
        arguments = ["repair", "--store", databases.owner_dsn(name)]
        asked, done, again = [await run([*arguments, *more]) for more in ([], ["--yes"], [])]
    assert asked[0] == done[0] == again[0] == 0
    assert "listeners without a name: 1\nroutes without a definition: 1\ndestinations without a name: 1" in asked[1]
    assert "nothing has changed" in asked[1]
    assert "the names are written" in done[1]
    assert again[1] == "the store has all names\n"


async def test_repair_of_a_database_that_is_away_ends_with_1() -> None:
    code, text = await run(["repair", "--store", "postgresql://usher@127.0.0.1:1/usher"])
    assert code == 1
    assert "PostgreSQL cannot be reached" in text


async def run(arguments: list[str]) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "usher_gateway",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()
