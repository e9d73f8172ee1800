"""The public port's certificates: one for every connection, or several, chosen by the name that a client asks for.

Renewed files are loaded for new connections, without a restart. Files that cannot be used, or that are missing, change
nothing: the certificate that was loaded before is served on, and a customer's unusable file affects no other names.
"""

import asyncio
import errno
import ssl
import stat
import time
from pathlib import Path
from typing import Self

import msgspec
import structlog

from usher_gateway import model
from usher_gateway.metered_tls import MeteredContext

_log = structlog.get_logger(__name__)

_FOLLOW_SECONDS = 5.0

_MAX_FILE_BYTES = 1024 * 1024  # A chain has a few KiB


class CertificateFiles(msgspec.Struct, frozen=True, order=True):
    """A certificate with its chain, and its key, both PEM."""

    chain: Path
    key: Path

    def modification_times(self) -> tuple[int, int]:
        """Return the times in nanoseconds.

        Raises:
            OSError: a file is missing, or it is no regular file of at most 1 MiB. A named pipe would block the reader.
        """
        return _modification_time(self.chain), _modification_time(self.key)


def _modification_time(file: Path) -> int:
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    if status.st_size > _MAX_FILE_BYTES:
        raise OSError(errno.EFBIG, "it is larger than 1 MiB")
    return status.st_mtime_ns


class LoadedCertificate(msgspec.Struct, frozen=True):
    """A certificate that can be served."""

    files: CertificateFiles
    modified: tuple[int, int]
    context: ssl.SSLContext
    names: tuple[str, ...]
    """Its DNS names in lower case, such as ``hooks.example.com`` or ``*.example.com`` (RFC 6125)."""
    valid_from: float
    """Unix seconds."""
    expires_at: float
    """Unix seconds."""

    @classmethod
    def load(cls, files: CertificateFiles) -> Self:
        """Load a certificate and its key.

        Raises:
            OSError: a file cannot be read.
            ssl.SSLError: the files do not belong together, or one is not PEM.
            ValueError: the certificate cannot be parsed.
        """
        from cryptography import x509  # a gateway behind a proxy does not need it

        modified = files.modification_times()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(files.chain, files.key)
        certificate = x509.load_pem_x509_certificates(files.chain.read_bytes())[0]
        try:
            extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            names = extension.value.get_values_for_type(x509.DNSName)
        except x509.ExtensionNotFound:
            names = []
        lowered = tuple(name.lower() for name in names)
        valid_from, expires_at = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return cls(files, modified, context, lowered, valid_from.timestamp(), expires_at.timestamp())


class _Rejection(msgspec.Struct, frozen=True):
    """Why files cannot be used."""

    reason: str
    modified: tuple[int, int] | None
    """They are loaded again once they have other times; None: at the next look, because they could not be read."""


def files_in(folder: Path) -> list[CertificateFiles]:
    """Return the pairs NAME.crt and NAME.key in a folder and its subfolders, sorted.

    A subfolder may be a mounted Secret of type ``kubernetes.io/tls``, which has ``tls.crt`` and ``tls.key``. The
    kubelet keeps its own copies in folders whose names begin with ``..``.

    Raises:
        OSError: the folder cannot be read.
    """
    folders = [
        folder,
        *(subfolder for subfolder in folder.iterdir() if subfolder.is_dir() and not subfolder.name.startswith("..")),
    ]
    chains = sorted(chain for searched in folders for chain in searched.glob("*.crt"))
    return [CertificateFiles(chain, chain.with_suffix(".key")) for chain in chains]


class Certificates:
    """Chooses the certificate for each connection to the public port, and follows renewals.

    Args:
        default: served to clients that ask for no name or for an unknown one. None: clients without a name get the
            folder's first, and those with an unknown name get an alert, because it would be another customer's.
        folder: further certificates, each served for its own names.

    Raises:
        ConfigurationError: the default cannot be used, or no certificate in the folder can.
    """

    def __init__(self, default: CertificateFiles | None, folder: Path | None) -> None:
        self._default, self._folder = default, folder
        self._loaded: dict[CertificateFiles, LoadedCertificate] = {}
        self._by_name: dict[str, LoadedCertificate] = {}
        self._rejected: dict[CertificateFiles, _Rejection] = {}
        self._missing: set[CertificateFiles] = set()  # Loaded certificates whose chain is not in the folder any more
        self._load(self._wanted())
        unusable = default if default in self._rejected else next(iter(self._rejected), None)
        if unusable is not None and (unusable == default or not self._loaded):
            reason = self._rejected[unusable].reason
            raise model.ConfigurationError(
                f"the certificate in {unusable.chain} with the key in {unusable.key} cannot be used: {reason}",
                "Give a PEM chain and its key, readable by Usher.",
            )
        if not self._loaded:
            raise model.ConfigurationError(
                f"the folder {folder} has no certificate", "Put pairs of NAME.crt and NAME.key there, both PEM."
            )
        self.context = MeteredContext(ssl.PROTOCOL_TLS_SERVER)
        """For the listening socket: each handshake then changes to its certificate's context."""
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.sni_callback = self._choose

    def _wanted(self) -> list[CertificateFiles]:
        """Return the files to load, the default first."""
        try:
            in_folder = files_in(self._folder) if self._folder is not None else []
        except OSError as error:
            raise model.ConfigurationError(
                f"the folder {self._folder} cannot be read: {_reason(error)}", "Give a folder that Usher may read."
            ) from error
        return [self._default, *in_folder] if self._default is not None else in_folder

    def _index(self) -> None:
        """Prepare the choice by name, at once, because handshakes go on in another thread.

        Among certificates with the same name, the default is served, so that no customer's file can replace it. Among
        several in the folder it is one that is valid now, then one whose files exist, then the one that expires last.
        """
        now = time.time()

        def rank(certificate: LoadedCertificate) -> tuple[bool, bool, bool, float]:
            is_valid = certificate.valid_from <= now < certificate.expires_at
            has_files = certificate.files not in self._missing
            return certificate.files == self._default, is_valid, has_files, certificate.expires_at

        ranked = sorted(self._loaded.values(), key=rank)
        self._by_name = {name: loaded for loaded in ranked for name in loaded.names}

    @property
    def _first(self) -> LoadedCertificate:
        return next(iter(self._loaded.values()))

    def _choose(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        """Give a handshake the certificate for its name, for its wildcard, or the default (RFC 6066, section 3).

        Returns the alert that ends the handshake, or None.
        """
        certificate = self._first
        if name:
            lowered = name.lower()
            named = self._by_name.get(lowered) or self._by_name.get("*." + lowered.partition(".")[2])
            if named is None and self._default is None:
                return ssl.AlertDescription.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
            certificate = named or certificate
        connection.context = certificate.context
        return None

    async def follow(self) -> None:
        """Load new and renewed certificates. Runs until cancelled."""
        while True:
            await asyncio.sleep(_FOLLOW_SECONDS)
            await asyncio.to_thread(self.load_changed)  # 2,000 new files take seconds, in which arrivals must not wait

    def load_changed(self) -> None:
        """Look at the files once. A certificate whose files cannot be used is served as before."""
        try:
            pairs = self._wanted()
        except model.ConfigurationError as error:
            _log.error("certificates_not_found", error=str(error))
            return
        self._load(pairs)

    def _load(self, pairs: list[CertificateFiles]) -> None:
        """Load what is new or changed. A certificate whose chain is missing is kept until it expires."""
        loaded = {files: certificate for files in pairs if (certificate := self._load_if_changed(files)) is not None}
        self._rejected = {files: self._rejected[files] for files in pairs if files in self._rejected}
        now = time.time()
        missing = {
            files: certificate
            for files, certificate in self._loaded.items()
            if files not in loaded and now < certificate.expires_at
        }
        for files in missing.keys() - self._missing:
            _log.error("certificate_file_lost", file=str(files.chain))
        self._missing = set(missing)
        if loaded or missing:
            self._loaded = loaded | missing
            self._index()

    def _load_if_changed(self, files: CertificateFiles) -> LoadedCertificate | None:
        served, rejected = self._loaded.get(files), self._rejected.get(files)
        modified = None
        try:
            modified = files.modification_times()
            if served is not None and served.modified == modified:
                return served
            if rejected is not None and rejected.modified == modified:
                return served
            loaded = LoadedCertificate.load(files)
        except (OSError, ssl.SSLError, ValueError) as error:
            is_content = isinstance(error, ssl.SSLError | ValueError)
            self._rejected[files] = _Rejection(_reason(error), modified if is_content else None)
            if rejected is None or rejected.reason != _reason(error):
                file = getattr(error, "filename", None) or files.chain  # the key if it is the one that is missing
                _log.error("certificate_not_loaded", file=str(file), error=_reason(error))
            return served
        self._rejected.pop(files, None)
        if self._loaded:
            _log.info("certificate_loaded", file=str(files.chain), names=list(loaded.names))
        return loaded

    @property
    def expiry_times(self) -> dict[str, float]:
        """Each served certificate's file -> when it expires, in Unix seconds."""
        return {str(files.chain): loaded.expires_at for files, loaded in self._loaded.items()}


def _reason(error: Exception) -> str:
    """Describe an error without a file's content."""
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__)
