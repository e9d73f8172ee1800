"""The errors of the gateway. Each has a code, and a hint for the person who can fix it."""


class UsherError(Exception):
    """The base class. ``hint`` says how to fix the error. Messages never contain personal data."""

    code = "Internal"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigurationError(UsherError):
    """The configuration or a flag is invalid."""

    code = "Configuration"


class DocumentUnreadableError(ConfigurationError):
    """A config Secret does not contain a valid document."""

    code = "DocumentUnreadable"


class DocumentTooNewError(ConfigurationError):
    """A document was written for a later release."""

    code = "DocumentTooNew"


class DocumentHashError(ConfigurationError):
    """A document's keyed hash does not match: another install key made it, or the document was changed."""

    code = "DocumentHash"


class DocumentTooLargeError(ConfigurationError):
    """A document is larger than a Secret may be."""

    code = "ConfigTooLarge"


class InstallKeyError(UsherError):
    """The data was created with another install key."""

    code = "InstallKeyChanged"


class NotFoundError(UsherError):
    """The requested object does not exist."""

    code = "NotFound"


class StoreUnavailableError(UsherError):
    """The store cannot commit now; a later try may succeed."""

    code = "StoreUnavailable"


class StoreFullError(StoreUnavailableError):
    """Free disk space is below the bound for accepting arrivals."""

    code = "LowDisk"


class StorageLimitError(StoreUnavailableError):
    """One tenant stores as many bytes as it may."""

    code = "StorageLimit"


class StoreBusyError(StoreUnavailableError):
    """The queue in front of the store, or one tenant's share of it, is full."""

    code = "QueueFull"


class StoreLockedError(UsherError):
    """Another process uses the data, or they were copied to another store, or a copy to them is unfinished."""

    code = "StoreLocked"


class SchemaTooOldError(UsherError):
    """The database lacks migrations, and this gateway may not make them."""

    code = "SchemaTooOld"


class StoreCorruptError(UsherError):
    """The store's file is damaged or does not belong to Usher."""

    code = "StoreCorrupt"
