"""The ``usher-operator`` command line."""

import inspect
import os
from pathlib import Path
from typing import Annotated, Literal

import typer

import usher_operator

_EPILOG = "Example:  usher-operator run --kubeconfig ~/.kube/config --gateways http://127.0.0.1:9090"
_CHECK_EPILOG = "Example:  usher-operator check-install --ready http://usher-gateway-admin.usher-system.svc:9090/readyz"

Kubeconfig = Annotated[
    Path | None,
    typer.Option(help="How to reach the API server. Default: the pod's service account, KUBECONFIG, ~/.kube/config."),
]


def build() -> typer.Typer:
    """Build the command line."""
    app = typer.Typer(
        name="usher-operator",
        help="Turns Usher's custom resources into TLS routes and live gateway configuration.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # boxes cut long names in a narrow terminal
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
        if version:
            typer.echo(usher_operator.__version__)
            raise typer.Exit

    for name, function, epilog in (("run", run, _EPILOG), ("check-install", check_install, _CHECK_EPILOG)):
        text = " ".join((inspect.getdoc(function) or "").split())
        summary = text.split(". ")[0].removesuffix(".") + "."  # typer would cut a longer one
        variables = {"auto_envvar_prefix": "USHER_OPERATOR"}
        app.command(name, epilog=epilog, help=text, short_help=summary, context_settings=variables)(function)
    return app


def run(  # noqa: PLR0917 - each is a flag
    kubeconfig: Kubeconfig = None,
    namespace: Annotated[
        str, typer.Option(help="Namespace of the operator: Lease, install key, tokens.")
    ] = "usher-system",
    configuration_namespace: Annotated[str, typer.Option(help="Namespace of the config Secrets.")] = "usher-config",
    data_plane_namespace: Annotated[
        str, typer.Option(help="Namespace of routes and certificates. Default: --namespace.")
    ] = "",
    controller_name: Annotated[
        str, typer.Option(help="The operator serves ListenerClasses with this controllerName.")
    ] = "usher.dev/usher",
    gateways: Annotated[
        list[str] | None, typer.Option(help="URL of a gateway's admin port, instead of a Service.")
    ] = None,
    gateway_service: Annotated[
        str,
        typer.Option(help="NAMESPACE/NAME[:PORT] of the Service whose ready endpoints are the gateways' admin ports."),
    ] = "",
    backend_service: Annotated[
        str, typer.Option(help="NAME:PORT of the Service to which routes send requests.")
    ] = "usher-gateway:80",
    gateway_api: Annotated[bool, typer.Option(help="Watch and write HTTPRoutes.")] = True,
    cert_manager: Annotated[bool, typer.Option(help="Watch and write Certificates.")] = True,
    check_routes: Annotated[
        bool, typer.Option(help="Ask each hostname whether it leads to a gateway, for the condition Reachable.")
    ] = True,
    admin: Annotated[str, typer.Option(help="HOST:PORT for health and metrics.")] = "127.0.0.1:9091",
    workers: Annotated[int, typer.Option(help="Number of resources reconciled at the same time.")] = 16,
    resync_seconds: Annotated[float, typer.Option(help="Interval between complete lists of the cluster.")] = 600.0,
    tombstone_seconds: Annotated[
        float, typer.Option(help="How long a tombstone stays before the operator deletes it.")
    ] = 600.0,
    identity: Annotated[str, typer.Option(help="Holder name in the Lease. Default: host name and a random part.")] = "",
    log_format: Annotated[Literal["auto", "json", "text"], typer.Option(help="auto, json or text.")] = "auto",
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="debug, info, warning, error.")
    ] = "info",
) -> None:
    """Watch Usher's custom resources and keep routes and configuration as they declare. Ends on SIGTERM and Ctrl-C."""
    import uvloop

    from usher_gateway import logs, model
    from usher_operator.app import Operator
    from usher_operator.settings import OperatorSettings, OperatorTiming, parse_backend, parse_endpoint, parse_service

    try:
        settings = OperatorSettings(
            kubeconfig=kubeconfig,
            namespace=namespace,
            configuration_namespace=configuration_namespace,
            data_plane_namespace=data_plane_namespace or namespace,
            controller_name=controller_name,
            identity=identity,
            gateways=tuple(url.rstrip("/") for url in gateways or ()),
            gateway_service=parse_service(gateway_service) if gateway_service else None,
            backend=parse_backend(backend_service),
            gateway_api=gateway_api,
            cert_manager=cert_manager,
            checks_routes=check_routes,
            admin=parse_endpoint(admin),
            workers=workers,
            timing=OperatorTiming(resync_seconds=resync_seconds, tombstone_seconds=tombstone_seconds),
        )
        operator = Operator(settings, dict(os.environ))
        as_json = None if log_format == "auto" else log_format == "json"
        logs.configure(as_json=as_json, level=log_level)
        is_done = uvloop.run(operator.run())
    except model.UsherError as error:
        if logs.drain():  # otherwise the log is stuck, and writing to the terminal would block
            typer.echo(f"usher-operator: {error}\n                {error.hint}", err=True)
        raise typer.Exit(2 if isinstance(error, model.ConfigurationError) else 1) from None
    if not is_done:
        raise typer.Exit(1)


def check_install(
    check: Annotated[
        Literal["definitions", "ready", "tenant"] | None,
        typer.Argument(metavar="CHECK", help="definitions, ready or tenant. Default: all.", show_default=False),
    ] = None,
    kubeconfig: Kubeconfig = None,
    namespace: Annotated[str, typer.Option(help="Namespace of the dry-run Tenant.")] = "usher-system",
    ready: Annotated[list[str] | None, typer.Option(help="URL of /readyz of a program.")] = None,
) -> None:
    """Check that an install works; each pod of `helm test` runs this.

    The API server has to serve Usher's kinds, the programs have to be ready, and a Tenant has to pass admission (it is
    not stored). Exit code 1 if a check failed.
    """
    import asyncio

    from usher_gateway import model
    from usher_gateway.kube import access
    from usher_gateway.kube.client import Client
    from usher_operator.run import install_check
    from usher_operator.state import kinds

    async def run_checks() -> bool:
        environ = dict(os.environ)
        connection = access.find_access(kubeconfig, environ, access.default_kubeconfig(environ))
        is_good = True
        async with Client(connection, field_manager=kinds.FIELD_MANAGER) as api:
            async for result in install_check.check_install(api, namespace, ready or (), check):
                typer.echo(f"failed: {result.name}: {result.problem}" if result.problem else f"ok: {result.name}")
                is_good = is_good and not result.problem
        return is_good

    try:
        is_good = asyncio.run(run_checks())
    except model.UsherError as error:
        typer.echo(f"usher-operator: {error}\n                {error.hint}", err=True)
        raise typer.Exit(2) from None
    if not is_good:
        raise typer.Exit(1)


def main() -> None:
    """The console script's entry point."""
    build()()
