"""Builds those parts of the gateway that its settings choose: the store, the source of configuration, and secrets."""

from collections.abc import Awaitable, Callable, Collection, Mapping

from usher_gateway import documents, model
from usher_gateway.admin import kubernetes_tokens, tokens
from usher_gateway.admin.seal import Seals
from usher_gateway.config import Source, files, install_key
from usher_gateway.ingest import certificates
from usher_gateway.kube import access, client
from usher_gateway.settings import Settings, read_store_password
from usher_gateway.store.sqlite import database
from usher_gateway.store.sqlite.store import SqliteSettings, SqliteStore
from usher_gateway.store.store import Store
from usher_gateway.timing import Clock


def make_store(settings: Settings, keys: model.Keys, now: Callable[[], int]) -> Store:
    """Return the store that the settings name.

    Raises:
        ConfigurationError: the file with the password cannot be read.
    """
    key_fingerprint = model.key_fingerprint(keys.install)
    if settings.store is None:
        bounds = database.DiskBounds(
            settings.accept_min_free_bytes, settings.accept_min_free_ratio, settings.attempts_min_free_bytes
        )
        return SqliteStore(SqliteSettings(settings.data, key_fingerprint, keys.name, disk_bounds=bounds), now)
    from usher_gateway.store.postgresql.opening import PostgresSettings  # imports asyncpg, which SQLite does not need
    from usher_gateway.store.postgresql.store import PostgresStore

    return PostgresStore(
        PostgresSettings(
            dsn=settings.store,
            key_fingerprint=key_fingerprint,
            names_key=keys.name,
            password=read_store_password(settings.store_password_file),
            durability=settings.store_durability,
            may_migrate=settings.migrate,
        ),
        now,
    )


def make_source(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    keys: model.Keys,
    check: Callable[[documents.ListenerDocument | documents.DestinationDocument], None],
    clock: Clock,
    arrivals: Callable[[], Mapping[str, int]],
) -> Source:
    """Return the source of configuration: files, or the API server of a cluster.

    Args:
        settings: say which.
        environ: may say how to reach the API server.
        keys: of the install.
        check: builds what would run a document; it raises an error if that is not possible.
        clock: of the gateway.
        arrivals: returns `Address.id` of each retired address -> its last arrival in microseconds.
    """
    if not settings.from_cluster:
        options = files.FileOptions(
            keys=keys, trusted_proxies=settings.trusted_proxies, removal_limit=settings.removal_limit
        )
        return files.FileSource(
            settings.files, options, now=clock.since_start, arrivals=lambda: _since_start(clock, arrivals())
        )
    from usher_gateway.config import cluster  # imports cryptography, which files do not need

    return cluster.ClusterSource(
        cluster.ClusterOptions(
            keys=keys,
            namespace=settings.config_namespace,
            data=settings.data,
            trusted_proxies=settings.trusted_proxies,
        ),
        client=client.Client(access.find_access(settings.kubeconfig, environ), limits=cluster.CLIENT_LIMITS),
        check=check,
        now=clock.now,
    )


def _since_start(clock: Clock, arrivals: Mapping[str, int]) -> dict[str, int]:
    """Return arrivals by `Clock.since_start`; a wall clock that was set back makes none of them earlier."""
    ahead = max(0, clock.since_start() - clock.now())
    return {address: at + ahead for address, at in arrivals.items()}


def make_kubernetes_tokens(
    settings: Settings, environ: Mapping[str, str], namespaces: Callable[[], Awaitable[Collection[str]]]
) -> kubernetes_tokens.KubernetesTokens | None:
    """Return what checks tokens of Kubernetes at the admin port; None if the settings do not allow them."""
    if not settings.admin_kubernetes_tokens:
        return None
    return kubernetes_tokens.KubernetesTokens(
        client=client.Client(access.find_access(settings.kubeconfig, environ), limits=kubernetes_tokens.CLIENT_LIMITS),
        namespaces=namespaces,
        audience=settings.admin_token_audience,
    )


def load_tokens(settings: Settings, keys: model.Keys) -> tokens.TokenBook:
    """Return the tokens of the admin port, from the data folder or the folder that the settings name."""
    data, folder, seals = settings.data, settings.admin_tokens, Seals(keys.page)
    if folder is None:
        return tokens.TokenBook(data, tokens.load_or_create(data), seals)
    return tokens.TokenBook(folder, tokens.load_both(folder), seals)


def make_certificates(settings: Settings) -> certificates.Certificates | None:
    """Return the certificates of the public port; None if it serves plain HTTP."""
    default = None
    if settings.tls_cert is not None and settings.tls_key is not None:
        default = certificates.CertificateFiles(settings.tls_cert, settings.tls_key)
    if default is None and settings.tls_dir is None:
        return None
    return certificates.Certificates(default, settings.tls_dir)


def check_key(settings: Settings, environ: Mapping[str, str]) -> None:
    """Refuse to create a new install key where a store or an operator already depends on another one.

    Raises:
        InstallKeyError: there is a store, but its key is missing.
        ConfigurationError: the configuration comes from a cluster, but the operator's key is missing.
    """
    data = settings.data
    file = data / install_key.FILE_NAME
    if settings.from_cluster and not environ.get(install_key.VARIABLE) and not file.exists():
        raise model.ConfigurationError(
            "a gateway with --from-cluster needs the operator's install key",
            f"Set {install_key.VARIABLE} from the entry {install_key.FILE_NAME} of the Secret usher-install-key.",
        )
    if not environ.get(install_key.VARIABLE) and not file.exists() and (data / database.FILE_NAME).exists():
        raise model.InstallKeyError(
            f"there is a store in {data}, but not its install key {file}",
            f"Put {install_key.FILE_NAME} back, or set {install_key.VARIABLE}: URLs and keyed hashes depend on it.",
        )
