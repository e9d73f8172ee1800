"""Folds the counts of commits: sums the rows of ``commits``, and adds the sums to ``meters``.

No two commits write the same row. An advisory lock lets one gateway at a time fold.
"""

from usher_gateway.store.jobs import meters
from usher_gateway.store.postgresql import schema
from usher_gateway.store.postgresql.connections import COMMIT_STEP, Connection, PostgresSession
from usher_gateway.store.session import columns

_GATHERED_COMMITS = 1_024  # Commits to sum in one transaction: many counts of a listener become a few meters

_GATHER = "select incarnation, number, counts from commits where counts <> '' limit $1"
_EMPTY = """
    update commits set counts = '' from unnest($1::bigint[], $2::bigint[]) as folded (incarnation, number)
    where commits.incarnation = folded.incarnation and commits.number = folded.number
"""
# Delete folded rows, except the last one of each line: after a lost connection its gateway asks for it.
_CLEAN = f"""
    delete from commits using
        (select incarnation, number % {COMMIT_STEP} as line, max(number) as newest from commits group by 1, 2) last
    where counts = '' and number < newest
        and commits.incarnation = last.incarnation and commits.number % {COMMIT_STEP} = line
"""  # noqa: S608

_CLEAN_ENDED = """
    delete from commits where counts = '' and not exists
        (select 1 from incarnations where incarnations.number = commits.incarnation)
"""


async def fold(connection: Connection) -> bool:
    """Fold some commits into the meters, in one transaction; return False if there are no more.

    If another gateway folds now, this leaves the work to it.
    """
    async with connection.transaction():
        if not await connection.fetchval("select pg_try_advisory_xact_lock($1)", schema.FOLD_LOCK):
            return False
        rows = await connection.fetch(_GATHER, _GATHERED_COMMITS)
        if rows:
            await meters.add(PostgresSession(connection), meters.sums([packed for _, _, packed in rows]))
            await connection.execute(_EMPTY, *columns([(row[0], row[1]) for row in rows], 2))
        await connection.execute(_CLEAN)
        await connection.execute(_CLEAN_ENDED)
    return len(rows) == _GATHERED_COMMITS
