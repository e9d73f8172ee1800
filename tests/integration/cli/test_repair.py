"""``usher repair`` on a real database."""

from pathlib import Path

from support import command_line, databases, engines, samples


async def test_repair_says_what_it_would_do_and_acts_when_it_is_confirmed(tmp_path: Path) -> None:
    engine = engines.Postgresql()
    async with engines.opened(engine) as bench:
        await bench.accept(samples.arrival("a"))
        await bench.store.flush()
        name = databases.name_of(bench.place)
        databases.server().execute("delete from listeners; delete from routes; delete from destinations", name)
        arguments = ["repair", "--store", databases.owner_dsn(name)]
        asked, done, again = [await command_line.usher(*arguments, *more) for more in ([], ["--yes"], [])]
    assert asked.code == done.code == again.code == 0
    assert "listeners without a name: 1\nroutes without a definition: 1\ndestinations without a name: 1" in asked.out
    assert "nothing has changed" in asked.out
    assert "the names are written" in done.out
    assert again.out == "the store has all names\n"


async def test_repair_of_a_database_that_is_away_ends_with_1() -> None:
    run = await command_line.usher("repair", "--store", "postgresql://usher@127.0.0.1:1/usher")
    assert run.code == 1
    assert "PostgreSQL cannot be reached" in run.err
