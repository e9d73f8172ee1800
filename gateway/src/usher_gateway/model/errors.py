"""The errors of the gateway: each has a code, whether it is permanent, and a hint for whoever can fix it."""


class UsherError(Exception):
    """Base of all; ``hint`` says what to do about it. Messages never hold personal data."""

    code = "Internal"
    permanent = False

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigurationError(UsherError):
    """The configuration or a flag cannot be used as it is."""

    code = "Configuration"
    permanent = True


class DocumentUnreadableError(ConfigurationError):
    """A config Secret does not hold what a config Secret should hold."""

    code = "DocumentUnreadable"


class DocumentTooNewError(ConfigurationError):
    """A document was written for a later release."""

    code = "DocumentTooNew"


class DocumentHashError(ConfigurationError):
    """A document's keyed hash does not verify: it was written with another install key, or changed since."""

    code = "DocumentHash"


class DocumentTooLargeError(ConfigurationError):
    """A document is larger than a Secret may be."""

    code = "ConfigTooLarge"


class InstallKeyError(UsherError):
    """The install key is not the one that this data was made with."""

    code = "InstallKeyChanged"
    permanent = True


class NotFoundError(UsherError):
    """What was asked for is not there."""

    code = "NotFound"
    permanent = True


class StoreUnavailableError(UsherError):
    """The store cannot commit now; it may later."""

    code = "StoreUnavailable"


class StoreFullError(StoreUnavailableError):
    """Disk space is below the bound under which nothing is accepted."""

    code = "LowDisk"


class StoreBusyError(StoreUnavailableError):
    """The queue before the store, or one tenant's part of it, is full."""

    code = "QueueFull"


class StoreLockedError(UsherError):
    """Another process holds the data directory."""

    code = "StoreLocked"
    permanent = True


class StoreCorruptError(UsherError):
    """The store's file cannot be read as ours."""

    code = "StoreCorrupt"
    permanent = True
