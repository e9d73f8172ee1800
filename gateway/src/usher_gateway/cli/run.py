"""``usher run``: runs the gateway."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from usher_gateway.cli import admin_client, database

if TYPE_CHECKING:
    from usher_gateway.settings import Settings

_EPILOG = """\
Example:  usher run examples/quickstart.yaml --data ./data --listen 127.0.0.1:8080 --admin 127.0.0.1:9090

In a cluster:  usher run --from-cluster --data /data --listen :8080 --admin :9090
"""


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(epilog=_EPILOG)
    def run(  # noqa: PLR0917 - each is a flag
        files: Annotated[
            list[Path] | None,
            typer.Argument(
                envvar="USHER_FILES", help="Manifests: YAML files, or folders of YAML files. The gateway watches them."
            ),
        ] = None,
        from_cluster: Annotated[
            bool,
            typer.Option(
                "--from-cluster",
                envvar="USHER_FROM_CLUSTER",
                help="Read the configuration that the operator publishes, instead of files.",
            ),
        ] = False,
        config_namespace: Annotated[
            str, typer.Option(envvar="USHER_CONFIG_NAMESPACE", help="Namespace of the operator's config Secrets.")
        ] = "usher-config",
        kubeconfig: Annotated[
            Path | None,
            typer.Option(
                envvar=["USHER_KUBECONFIG", "KUBECONFIG"],
                help="Reach the API server with this file, not with the pod's account.",
            ),
        ] = None,
        data: Annotated[
            Path, typer.Option(envvar="USHER_DATA", help="Folder of the SQLite store, the install key and the tokens.")
        ] = Path("data"),
        store: database.Store = None,
        store_password_file: database.StorePasswordFile = None,
        store_durability: Annotated[
            Literal["Local", "Replicated"],
            typer.Option(
                envvar="USHER_STORE_DURABILITY",
                help="Replicated: accept visits only while --store has a synchronous standby.",
            ),
        ] = "Local",
        migrate: Annotated[
            bool,
            typer.Option(
                "--migrate/--no-migrate",
                envvar="USHER_MIGRATE",
                help="Bring the tables of --store up to date at the start; if not, `usher migrate` must have done it.",
            ),
        ] = True,
        listen: Annotated[
            str, typer.Option(envvar="USHER_LISTEN", help="HOST:PORT of the public port, to which Purple posts.")
        ] = "127.0.0.1:8080",
        admin: Annotated[
            str, typer.Option(envvar="USHER_ADMIN_LISTEN", help="HOST:PORT for health, metrics and the API.")
        ] = "127.0.0.1:9090",
        admin_tokens: Annotated[
            Path | None,
            typer.Option(
                envvar="USHER_ADMIN_TOKENS", help="Folder of observe.token and operate.token, if it is not --data."
            ),
        ] = None,
        admin_host: Annotated[
            list[str] | None,
            typer.Option(envvar="USHER_ADMIN_HOST", help="Name of the admin port, besides IP addresses and localhost."),
        ] = None,
        admin_kubernetes_tokens: Annotated[
            bool,
            typer.Option(
                "--admin-kubernetes-tokens",
                envvar="USHER_ADMIN_KUBERNETES_TOKENS",
                help="Take tokens of Kubernetes too; the API server says what their users may do.",
            ),
        ] = False,
        admin_token_audience: Annotated[
            str | None,
            typer.Option(
                envvar="USHER_ADMIN_TOKEN_AUDIENCE",
                help="Take only tokens of Kubernetes with this audience, not those for the API server.",
            ),
        ] = None,
        tls_cert: Annotated[
            Path | None, typer.Option(envvar="USHER_TLS_CERT", help="PEM chain; the gateway loads renewed files.")
        ] = None,
        tls_key: Annotated[Path | None, typer.Option(envvar="USHER_TLS_KEY", help="PEM key of --tls-cert.")] = None,
        tls_dir: Annotated[
            Path | None,
            typer.Option(
                envvar="USHER_TLS_DIR",
                help="Folder of certificates NAME.crt with NAME.key, or folders with tls.crt and tls.key;"
                " clients get the one for the name they ask for.",
            ),
        ] = None,
        trusted_proxies: Annotated[
            list[str] | None,
            typer.Option(envvar="USHER_TRUSTED_PROXIES", help="CIDR of a proxy whose X-Forwarded-For is trusted."),
        ] = None,
        allow_destination: Annotated[
            list[str] | None,
            typer.Option(envvar="USHER_ALLOW_DESTINATION", help="CIDR, HOST[:PORT] or loopback: private but allowed."),
        ] = None,
        removal_limit: Annotated[
            int | None,
            typer.Option(
                envvar="USHER_REMOVAL_LIMIT",
                help="Listeners of a namespace that edited files may remove within ten minutes without a confirmation.",
            ),
        ] = None,
        receipt_days: Annotated[
            int,
            typer.Option(envvar="USHER_RECEIPT_DAYS", min=1, max=36_500, help="Days that receipts of erasure stay."),
        ] = 1095,
        backup_days: Annotated[
            int,
            typer.Option(
                envvar="USHER_BACKUP_DAYS",
                min=0,
                max=36_500,
                help="Days that you keep backups of the store, for receipts of erasure. 0: receipts do not state it.",
            ),
        ] = 0,
        brand: Annotated[
            Path | None,
            typer.Option(
                envvar="USHER_BRAND", help="YAML file with name, contact, colour and logo, for the pages of customers."
            ),
        ] = None,
        page_proxies: Annotated[
            list[str] | None,
            typer.Option(
                envvar="USHER_PAGE_PROXIES", help="CIDR of a proxy that logs people in for the pages, and names them."
            ),
        ] = None,
        page_user_header: Annotated[
            str, typer.Option(envvar="USHER_PAGE_USER_HEADER", help="Header of such a proxy with the user's name.")
        ] = "X-Forwarded-User",
        page_groups_header: Annotated[
            str,
            typer.Option(envvar="USHER_PAGE_GROUPS_HEADER", help="Header with the user's groups, separated by commas."),
        ] = "X-Forwarded-Groups",
        page_role: Annotated[
            list[str] | None,
            typer.Option(
                envvar="USHER_PAGE_ROLE",
                help="GROUP=ROLE: what a group may do on the pages; look, operate or privacy.",
            ),
        ] = None,
        time_scale: Annotated[
            float,
            typer.Option(envvar="USHER_TIME_SCALE", help="Development only: run the clock this many times as fast."),
        ] = 1.0,
        accept_clock: Annotated[
            bool,
            typer.Option(
                "--accept-clock",
                envvar="USHER_ACCEPT_CLOCK",
                help="The clock is right, although it is far after the last time in the store.",
            ),
        ] = False,
        accept_min_free_mib: Annotated[
            int, typer.Option(envvar="USHER_ACCEPT_MIN_FREE_MIB", help="Free disk space below which visits get 503.")
        ] = 1024,
        attempts_min_free_mib: Annotated[
            int, typer.Option(envvar="USHER_ATTEMPTS_MIN_FREE_MIB", help="Free disk space below which sending stops.")
        ] = 256,
        log_format: Annotated[
            Literal["auto", "json", "text"], typer.Option(envvar="USHER_LOG_FORMAT", help="auto, json or text.")
        ] = "auto",
        log_level: Annotated[
            Literal["debug", "info", "warning", "error"],
            typer.Option(envvar="USHER_LOG_LEVEL", help="debug, info, warning, error."),
        ] = "info",
    ) -> None:
        """Answer Purple, store every visit and deliver it. Stops cleanly on SIGTERM and Ctrl-C."""
        from usher_gateway import logs, model
        from usher_gateway.settings import Settings, parse_endpoint

        logs.configure(as_json=None if log_format == "auto" else log_format == "json", level=log_level)
        try:
            settings = Settings(
                files=tuple(files or ()),
                from_cluster=from_cluster,
                config_namespace=config_namespace,
                kubeconfig=kubeconfig,
                data=data,
                store=store,
                store_password_file=store_password_file,
                store_durability=store_durability,
                migrate=migrate,
                listen=parse_endpoint(listen),
                admin=parse_endpoint(admin),
                admin_tokens=admin_tokens,
                admin_host=tuple(admin_host or ()),
                admin_kubernetes_tokens=admin_kubernetes_tokens,
                admin_token_audience=admin_token_audience,
                tls_cert=tls_cert,
                tls_key=tls_key,
                tls_dir=tls_dir,
                trusted_proxies=tuple(trusted_proxies or ()),
                allow_destination=tuple(allow_destination or ()),
                removal_limit=removal_limit,
                receipt_days=receipt_days,
                backup_days=backup_days,
                brand=brand,
                page_proxies=tuple(page_proxies or ()),
                page_user_header=page_user_header,
                page_groups_header=page_groups_header,
                page_role=tuple(page_role or ()),
                time_scale=time_scale,
                accept_clock=accept_clock,
                accept_min_free_bytes=accept_min_free_mib * 1024**2,
                attempts_min_free_bytes=attempts_min_free_mib * 1024**2,
            )
            _serve(settings)
        except model.UsherError as error:
            code = admin_client.USAGE if isinstance(error, model.ConfigurationError) else admin_client.WRONG
            if logs.drain():  # if no process reads standard error, a write would block
                admin_client.fail(str(error), error.hint, code)
            raise typer.Exit(code) from None


def _serve(settings: "Settings") -> None:
    import uvloop

    from usher_gateway import app, process

    process.collect_garbage_rarely()

    async def main() -> None:
        gateway = app.Gateway(settings, dict(os.environ))
        app.handle_signals(gateway)
        await gateway.run()

    uvloop.run(main())
    sys.stdout.flush()
