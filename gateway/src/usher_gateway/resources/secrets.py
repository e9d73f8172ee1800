"""Values from Secrets, with the reason where one is missing."""

import base64
import re
from collections.abc import Mapping

from usher_gateway import resources
from usher_gateway.resources import condition, metadata, problem, types

_PRINTABLE = re.compile(rb"[\x20-\x7e]*")


class Resolution:
    """Reads the Secrets that one resource refers to, and gathers what is missing."""

    def __init__(self, secrets: Mapping[str, resources.Secret], owner: tuple[str, str], *, require_label: bool) -> None:
        self._secrets = secrets
        self._kind, self._key = owner
        self._namespace = self._key.partition("/")[0]
        self._require_label = require_label
        self.findings: list[condition.Finding] = []

    @property
    def missing(self) -> condition.Reason | None:
        """Why a value could not be had; None where all are there."""
        return next((found.reason for found in self.findings if found.severity == "error"), None)

    def text(self, ref: types.SecretKeyRef, path: str) -> str:
        """The value of one key as text fit for a header; ``""`` where it is missing."""
        return self._value(ref.name, ref.key, path)

    def basic(self, ref: types.SecretRef, path: str) -> str:
        """``Basic …`` of a Secret with ``username`` and ``password``; ``""`` where it is missing."""
        user = self._value(ref.name, "username", path)
        password = self._value(ref.name, "password", path) if user else ""
        if not password:
            return ""
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    def _value(self, name: str, key: str, path: str) -> str:
        where = f"{self._namespace}/{name}"
        secret = self._secrets.get(where)
        if secret is None:
            message = f"Secret `{name}` must exist in the same namespace"
            return self._report(path, condition.Reason.SecretNotFound, message, missing=where)
        if secret.metadata.labels.get(metadata.WATCH_LABEL) != "true" and not self._labelled(name, path):
            return ""
        value = value_of(secret, key).rstrip(b"\r\n")
        if not value:
            message = f"Secret `{name}` must have a value under the key `{key}`"
            return self._report(path, condition.Reason.SecretKeyNotFound, message)
        if not _PRINTABLE.fullmatch(value):
            message = f"the value under `{key}` of Secret `{name}` must be printable ASCII on one line"
            return self._report(path, condition.Reason.SecretKeyNotFound, message)
        return value.decode("ascii")

    def _labelled(self, name: str, path: str) -> bool:
        message = f'Secret `{name}` must have the label {metadata.WATCH_LABEL}: "true"'
        if self._require_label:
            self._report(path, condition.Reason.SecretNotLabelled, message)
            return False
        message += " before it can be used in a cluster"
        self._report(path, condition.Reason.SecretNotLabelled, message, warning=True)
        return True

    def _report(
        self, path: str, reason: condition.Reason, message: str, *, warning: bool = False, missing: str = ""
    ) -> str:
        severity: problem.Severity = "warning" if warning else "error"
        secret = (resources.Secret.kind_name, missing) if missing else None
        found = condition.Finding(self._kind, self._key, path, reason, message, severity, secret)
        if found not in self.findings:
            self.findings.append(found)
        return ""


def value_of(secret: resources.Secret, key: str) -> bytes:
    """The bytes under a key; empty where there are none."""
    if key in secret.string_data:
        return secret.string_data[key].encode()
    return base64.b64decode(secret.data.get(key, ""))


def size_of(secret: resources.Secret) -> int:
    """Bytes of all values together, as an API server counts them; values that are no base64 count as they stand."""
    plain = {key: len(value.encode()) for key, value in secret.string_data.items()}
    encoded = {key: len(value) * 3 // 4 if is_base64(value) else len(value) for key, value in secret.data.items()}
    return sum((encoded | plain).values())


def bad_base64(secret: resources.Secret) -> list[str]:
    """The keys of ``data`` whose values are no base64."""
    return [key for key, value in secret.data.items() if not is_base64(value)]


def is_base64(value: str) -> bool:
    """Whether text is base64; blanks and line ends are allowed, as at an API server."""
    try:
        base64.b64decode("".join(value.split()), validate=True)
    except ValueError:
        return False
    return True
