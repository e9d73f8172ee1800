"""Secret (core v1): where resources take credentials from, and how Usher reads them."""

import base64
import re
from collections.abc import Mapping
from typing import ClassVar, Literal

from usher_gateway.resources import conditions, types

_Values = dict[types.SecretKey, str]

# Longest value that a resource can use: every value becomes a header or a signing key, and the operator keeps it.
MAX_VALUE_BYTES = 64 * 1024

_PRINTABLE = re.compile(rb"[\x20-\x7e]*")
_LINES = re.compile(rb"[\x20-\x7e\r\n\t]*")


class Secret(types.ResourceBase, frozen=True, kw_only=True):
    """A core v1 Secret, as far as Usher reads it."""

    kind_name: ClassVar[str] = "Secret"
    namespaced: ClassVar[bool] = True

    api_version: Literal["v1"]
    kind: Literal["Secret"]
    metadata: types.Metadata
    type: str = "Opaque"
    data: _Values = {}  # Values in base64
    string_data: _Values = {}  # Plain values. They win over `data`, as at an API server.
    immutable: bool = False

    def value_of(self, key: str) -> bytes:
        """Return the bytes under a key; empty if there are none."""
        if key in self.string_data:
            return self.string_data[key].encode()
        return base64.b64decode(self.data.get(key, ""))

    @property
    def size(self) -> int:
        """Bytes of all values together, as an API server counts them.

        A value that is not valid base64 counts with its length as written.
        """
        plain = {key: len(value.encode()) for key, value in self.string_data.items()}
        encoded = {key: len(value) * 3 // 4 if is_base64(value) else len(value) for key, value in self.data.items()}
        return sum((encoded | plain).values())

    @property
    def bad_base64_keys(self) -> list[str]:
        """The keys of ``data`` whose values are not valid base64."""
        return [key for key, value in self.data.items() if not is_base64(value)]


class SecretResolver:
    """Reads the Secrets that one resource refers to, and collects a finding for each value that is missing.

    A file may use a Secret without the label ``usher.dev/watch`` (a warning), because nothing but a cluster selects
    Secrets by it. With ``require_label`` such a Secret is an error.
    """

    def __init__(self, secrets: Mapping[str, Secret], owner: tuple[str, str], *, require_label: bool) -> None:
        self._secrets = secrets
        self._kind, self._key = owner
        self._namespace = self._key.partition("/")[0]
        self._require_label = require_label
        self.findings: list[conditions.Finding] = []

    @property
    def missing(self) -> conditions.Finding | None:
        """The finding about the first missing value; None if every value was found."""
        return next((finding for finding in self.findings if finding.severity == "error"), None)

    def text(self, ref: types.SecretKeyRef, path: str) -> str:
        """Return one key's value as text that fits into a header; ``""`` if it is missing."""
        return self._value(ref.name, ref.key, path)

    def document(self, ref: types.SecretKeyRef, path: str) -> str:
        """Return one key's value as text with several lines, such as a PEM key; ``""`` if it is missing."""
        return self._value(ref.name, ref.key, path, allowed=_LINES, form="printable ASCII")

    def basic(self, ref: types.SecretRef, path: str) -> str:
        """Return ``Basic …`` for a Secret with ``username`` and ``password``; ``""`` if a value is missing."""
        user_key, password_key = types.BASIC_KEYS
        user = self._value(ref.name, user_key, path)
        password = self._value(ref.name, password_key, path) if user else ""
        if not password:
            return ""
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    def _value(
        self,
        name: str,
        key: str,
        path: str,
        *,
        allowed: re.Pattern[bytes] | None = None,
        form: str = "printable ASCII on one line",
    ) -> str:
        secret_key = f"{self._namespace}/{name}"
        secret = self._secrets.get(secret_key)
        if secret is None:
            message = f"Secret `{name}` must exist in the same namespace"
            return self.report(path, conditions.Reason.SecretNotFound, message, missing=secret_key)
        if secret.metadata.labels.get(types.WATCH_LABEL) != "true" and not self._may_lack_label(name, path):
            return ""
        value = secret.value_of(key).rstrip(b"\r\n")
        if not value:
            message = f"Secret `{name}` must have a value under the key `{key}`"
            return self.report(path, conditions.Reason.SecretKeyNotFound, message)
        if len(value) > MAX_VALUE_BYTES:
            message = f"the value under `{key}` of Secret `{name}` must have at most {MAX_VALUE_BYTES} bytes"
            return self.report(path, conditions.Reason.SecretKeyNotFound, message)
        if not (allowed or _PRINTABLE).fullmatch(value):
            message = f"the value under `{key}` of Secret `{name}` must be {form}"
            return self.report(path, conditions.Reason.SecretKeyNotFound, message)
        return value.decode("ascii")

    def _may_lack_label(self, name: str, path: str) -> bool:
        message = f'Secret `{name}` must have the label {types.WATCH_LABEL}: "true"'
        if self._require_label:
            self.report(path, conditions.Reason.SecretNotLabelled, message)
            return False
        message += " before it can be used in a cluster"
        self.report(path, conditions.Reason.SecretNotLabelled, message, severity="warning")
        return True

    def report(
        self,
        path: str,
        reason: conditions.Reason,
        message: str,
        *,
        severity: conditions.Severity = "error",
        missing: str = "",
    ) -> str:
        """Add a finding once, and return the value for what is missing."""
        absent = (Secret.kind_name, missing) if missing else None
        finding = conditions.Finding(self._kind, self._key, path, reason, message, severity, absent)
        if finding not in self.findings:
            self.findings.append(finding)
        return ""


def is_base64(value: str) -> bool:
    """Return True if text is base64. Blanks and line ends are allowed, as at an API server."""
    try:
        base64.b64decode("".join(value.split()), validate=True)
    except ValueError:
        return False
    return True
