"""The open transaction that all steps of a commit and all jobs get."""

from collections.abc import Collection, Sequence

from usher_gateway import model
from usher_gateway.store import session
from usher_gateway.store.acceptance import RouteNumbers
from usher_gateway.store.postgresql.connections import Connection, PostgresSession
from usher_gateway.store.postgresql.names import USE_ROUTES, NameNumbers, NamesLostError, UsedNames

COMMIT_STEP = 4
"""The numbers of a line's commits are this far apart: their remainder is the number of the line."""


OWNERSHIP_LOST = "another gateway took over this one's deliveries, or the database went back to before this run began"

_IS_OWNER = "select exists (select 1 from incarnations where number = $1 and ended_at is null)"


class OwnershipLostError(model.StoreUnavailableError):
    """This incarnation may not commit any more: another gateway ended it, or a restored database does not know it."""


class Transaction(session.Transaction):
    """One open transaction on PostgreSQL."""

    def __init__(
        self,
        *,
        connection: Connection,
        incarnation: int,
        number: int | None = None,
        ids: model.IdFactory,
        names: NameNumbers,
        now: int,
    ) -> None:
        self.connection = connection
        self.session = PostgresSession(connection)
        self.owner = incarnation
        self.number = number
        """The number of its commit; None if it does without a row in `commits`."""
        self.has_commit_row = False
        self.ids = ids
        self.names: NameNumbers = names
        self.meters = {}
        self.used = UsedNames()
        self.now = now
        self.noted_at = 0
        """The time at which this transaction lets a delivery wait; 0: it does not."""

    async def load_listeners(self, listeners: Collection[int]) -> None:
        """Read the names of listeners that other gateways added."""
        await self.names.load_listeners(self.connection, listeners)

    async def load_routes(self, routes: Collection[int]) -> None:
        """Read the definitions that other gateways added."""
        await self.names.load_routes(self.connection, routes)

    def destination_of_route(self, route: int) -> int:
        """Return the number of a loaded route's destination; 0 if the database has lost the route."""
        return self.names.destination_of_route(route)

    def listener(self, name: model.ListenerName) -> int:
        """Return the number of a listener that was prepared, to write it."""
        number = self.used.listeners.get(name)
        if number is None:
            number = self.used.listeners[name] = self.names.listener(name)
        return number

    def route(self, definition: model.RouteDefinition) -> RouteNumbers:
        """Return the numbers of a route definition that was prepared, to write them."""
        route = self.used.routes.get(id(definition))
        if route is None:
            route = self.used.routes[id(definition)] = self.names.route(definition)
        return route.numbers

    async def keep_routes(self, arrivals: Sequence[int]) -> None:
        """Let arrivals, which may be older or newer than this gateway's, refer to the routes of this transaction."""
        if arrivals and self.used.routes:
            key = max(arrivals) + model.KEYS_PER_DAY
            await self.connection.execute(USE_ROUTES, self.used.route_numbers(), key)

    async def meter_routes(self, routes: Sequence[int], at: int, counter: int) -> None:
        """Add one for each of some routes, which rows of the database name. Unknown routes have no meters."""
        await self.names.load_routes(self.connection, routes)
        for route in routes:
            listener = self.names.listener_of_route(route)
            if listener is not None:
                self.meter(listener, model.slot_of(at), counter)

    def note_time(self, now: int) -> None:
        """Record the time, so that a start notices that the clock was set back."""
        self.noted_at = max(self.noted_at, now)

    async def note_commit_row(self, number: int | None) -> None:
        """Note that the row of the commit is inserted; after that, nothing may be counted any more.

        ``number``: what the statement returned that inserts the row; None if it inserted none.

        Raises:
            OwnershipLostError: the statement inserted no row, because this incarnation has ended.
            NamesLostError: the statement inserted no row, because the database lacks a name of this transaction.
        """
        if number is None:
            if await self.connection.fetchval(_IS_OWNER, self.owner):
                raise NamesLostError
            raise OwnershipLostError(OWNERSHIP_LOST, "Restart this gateway.")
        self.has_commit_row = True
