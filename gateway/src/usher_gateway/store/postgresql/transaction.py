"""The open transaction that all steps of a commit and all jobs get."""

from usher_gateway import model
from usher_gateway.store import transaction
from usher_gateway.store.names import NameNumbers
from usher_gateway.store.postgresql.connections import Connection, PostgresSession

COMMIT_STEP = 4  # The numbers of a line's commits are this far apart: their remainder is the number of the line


OWNERSHIP_LOST = "another gateway took over this one's deliveries, or the database went back to before this run began"


class OwnershipLostError(model.StoreUnavailableError):
    """This incarnation may not commit any more: another gateway ended it, or a restored database does not know it."""


class Transaction(transaction.Transaction):
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
        super().__init__(PostgresSession(connection), ids=ids, names=names, owner=incarnation)
        self.connection = connection
        self.number = number  # The number of its commit; None if it does without a row in `commits`
        self.has_commit_row = False
        """True once the row of the commit is inserted; after that, nothing may be counted any more."""
        self.now = now
