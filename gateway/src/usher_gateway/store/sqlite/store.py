from usher_gateway.store.sqlite import engine


class SqliteStore(engine.SqliteEngine):
    async def prune(self, now: int) -> int:
        return 0

    async def usage(self, a, b):
        return []
