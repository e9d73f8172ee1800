"""The install key and the admin tokens: the Secrets that an install has once.

The operator creates them if they are absent and never overwrites them.
"""

import asyncio
import base64
import binascii
import re
import secrets
from collections.abc import Awaitable, Callable

import structlog

from usher_gateway import config_secret, model
from usher_gateway.kube.client import ApiError, Client, JsonObject
from usher_operator.run.workqueue import PauseGate, Workqueue
from usher_operator.state import kinds
from usher_operator.state.cache import Cache
from usher_operator.state.values import FINGERPRINT_FIELD, INSTALL_KEY_SECRET, Key

_log = structlog.get_logger(__name__)

KEY_ENTRY = "install.key"  # Entry of the install key's Secret: base64 on one line, as in a gateway's data folder

# Secret with the tokens for the gateways' admin ports, in the operator's namespace.
TOKENS_SECRET = "usher-admin-tokens"  # noqa: S105 - a name

OBSERVE_ENTRY = "observe.token"  # Entry with the token that reads configuration and usage; the operator uses it
OPERATE_ENTRY = "operate.token"  # Entry with the token that shows bodies and allows changes

_TOKEN = re.compile(rb"[\x21-\x7e]+")  # Characters that a header may have

_TOPIC = "install key"
_CHECK_SECONDS = 30.0
# Interval between checks while the install key is missing or wrong, so that its restoration takes effect soon.
_RESTORE_CHECK_SECONDS = 2.0


class Installation:
    """Reads and creates the install's Secrets, and replans every key when the install key changes.

    ``read_documents`` reads the config Secrets with the present keys; returns a falsy value if that failed.
    """

    def __init__(
        self,
        *,
        api: Client,
        cache: Cache,
        queue: Workqueue[Key],
        gate: PauseGate,
        read_documents: Callable[[], Awaitable[str]],
    ) -> None:
        self._api, self._cache, self._gate, self._queue = api, cache, gate, queue
        self._read_documents = read_documents
        self._namespace = cache.settings.namespace
        self._key: bytes | None = None
        self._key_secret = f"{self._namespace}/{INSTALL_KEY_SECRET}"
        self.observe_token = ""

    @property
    def is_key_known(self) -> bool:
        """True if the key matches the fingerprint in every class of this install. Otherwise nothing is removed."""
        if self._key is None:
            return False
        recorded = fingerprints(self._cache)
        return not recorded or recorded == {model.key_fingerprint(self._key)}

    async def ensure(self) -> bool:
        """Read the Secrets, and create the absent ones; False without a usable install key.

        Raises:
            ApiError: a Secret could not be read or created.
        """
        self.observe_token = await self._tokens()
        key = await self._install_key()
        if key is None:
            return False
        if key != self._key:
            self._cache.keys = model.derive_keys(key)
            if self._key is not None:
                self._gate.pause(_TOPIC, "the install key has changed: the documents are read again")
                if not await self._read_documents():  # those that another key signed could not be read
                    return False
                self._queue.add_all(self._cache.all_keys())
            # last, because after a failed reading the next check must read again; until then the gate stays closed
            self._key = key
            _log.info("install_key_read", fingerprint=model.key_fingerprint(key), known=self.is_key_known)
        self._gate.resume(_TOPIC)
        return True

    async def watch(self) -> None:
        """Check the Secrets at an interval, until cancelled."""
        while True:
            is_usable = self.is_key_known and _TOPIC not in self._gate.reasons
            await asyncio.sleep(_CHECK_SECONDS if is_usable else _RESTORE_CHECK_SECONDS)
            try:
                await self.ensure()
            except ApiError as error:
                _log.warning("install_secrets_not_read", error=str(error))

    async def _install_key(self) -> bytes | None:
        data = await self._read(INSTALL_KEY_SECRET)
        if data is None:
            if self._key is None and (fingerprints(self._cache) or await self._has_published()):
                reason = f"Secret {self._key_secret} was deleted, and every URL is derived from it: restore it"
                self._gate.pause(_TOPIC, reason)
                return None
            key = self._key or secrets.token_bytes(model.keys.INSTALL_KEY_BYTES)
            data = await self._create(INSTALL_KEY_SECRET, {KEY_ENTRY: base64.b64encode(key) + b"\n"})
        try:
            key = base64.b64decode(data.get(KEY_ENTRY, b"").strip(), validate=True)
        except binascii.Error:
            key = b""
        if len(key) < model.keys.INSTALL_KEY_BYTES:
            reason = f"Secret {self._key_secret} must have base64 of at least 32 bytes under {KEY_ENTRY}: restore it"
            self._gate.pause(_TOPIC, reason)
            return None
        return key

    async def _has_published(self) -> bool:
        """True if this install's documents exist, which proves that there was a key."""
        settings = self._cache.settings
        mine = f"{config_secret.INSTALL_LABEL}={settings.install_label},{config_secret.SELECTOR}"
        path = kinds.SECRET.collection(settings.configuration_namespace)
        async for page in self._api.pages(path, JsonObject, selector=mine):
            if page.items:
                return True
        return False

    async def _tokens(self) -> str:
        data = await self._read(TOKENS_SECRET)
        if data is None:
            tokens = {name: secrets.token_urlsafe(32).encode() + b"\n" for name in (OBSERVE_ENTRY, OPERATE_ENTRY)}
            data = await self._create(TOKENS_SECRET, tokens)
        token = data.get(OBSERVE_ENTRY, b"").strip()
        if not _TOKEN.fullmatch(token):
            _log.error("observe_token_not_found", secret=TOKENS_SECRET, entry=OBSERVE_ENTRY)
            return ""
        return token.decode("ascii")

    async def _read(self, name: str) -> dict[str, bytes] | None:
        raw = await self._api.get(kinds.SECRET.path(self._namespace, name), missing_ok=True)
        return _decoded(raw) if raw is not None else None

    async def _create(self, name: str, data: dict[str, bytes]) -> dict[str, bytes]:
        """Create a Secret; if another replica was faster, return its Secret's data."""
        labels = {config_secret.INSTALL_LABEL: self._cache.settings.install_label}
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": self._namespace, "labels": labels},
            "type": "Opaque",
            "data": {entry: base64.b64encode(value).decode() for entry, value in data.items()},
        }
        try:
            raw = await self._api.create(kinds.SECRET.collection(self._namespace), body)
            _log.info("install_secret_created", name=name)
        except ApiError as error:
            if error.status != 409:
                raise
            existing = await self._api.get(kinds.SECRET.path(self._namespace, name))
            assert existing is not None
            raw = existing
        return _decoded(raw)


def fingerprints(cache: Cache) -> set[str]:
    """Install key fingerprints in the statuses of this install's classes."""
    recorded = {str(listener_class.fields.get(FINGERPRINT_FIELD, "")) for listener_class in cache.our_classes()}
    return recorded - {""}


def _decoded(raw: JsonObject) -> dict[str, bytes]:
    return {name: base64.b64decode(value) for name, value in (raw.get("data") or {}).items()}
