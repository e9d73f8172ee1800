"""``usher receive``: runs a receiver that counts, verifies signatures, and misbehaves on request."""

from pathlib import Path
from typing import Annotated

import typer

from usher_gateway.cli import admin_client

_EPILOG = (
    "Example: usher receive --listen 127.0.0.1:9000 --secret env:CRM_SECRET --fail 503 --down-after 30 --down-for 60"
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=_EPILOG, context_settings={"auto_envvar_prefix": "USHER_RECEIVE"})(receive)


def receive(
    *,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to listen.")] = "127.0.0.1:9000",
    secret: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE",
            help="Verify Standard Webhooks signatures with the secret in env:NAME or file:PATH; "
            "several during a rotation.",
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="The most seconds between webhook-timestamp and now; 0: any.")
    ] = 300.0,
    success_header: Annotated[
        bool, typer.Option("--success-header", help="Answer with wifiWebhookListener: 1, like a listener of Purple.")
    ] = False,
    show_bodies: Annotated[
        bool, typer.Option("--show-bodies", help="Print every body. Bodies contain personal data.")
    ] = False,
    path: Annotated[list[str] | None, typer.Option(help="Misbehave only at this path; may be repeated.")] = None,
    fail: Annotated[int, typer.Option(min=200, max=599, help="Answer with this status.")] = 200,
    retry_after: Annotated[str, typer.Option(help="With --fail: value of Retry-After.")] = "",
    location: Annotated[str, typer.Option(help="With --fail 301 …: the target of the redirect.")] = "",
    delay: Annotated[float, typer.Option(min=0, help="Answer this many seconds late.")] = 0.0,
    hang: Annotated[bool, typer.Option("--hang", help="Never answer.")] = False,
    down_after: Annotated[float, typer.Option(min=0, help="Misbehave only after this many seconds.")] = 0.0,
    down_for: Annotated[float, typer.Option(min=0, help="Misbehave only for this many seconds; 0: without end.")] = 0.0,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", exists=True, dir_okay=False, help="Serve https: certificate (PEM).")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", exists=True, dir_okay=False, help="Its key (PEM).")
    ] = None,
    output: admin_client.DocumentOutput = "text",
) -> None:
    """Receive at any path, count per path, and print the counts at Ctrl-C.

    While it runs, POST /_control changes how it answers, and GET /_counts shows the counts as JSON (both only from
    this machine). Exit code 1: with --secret, a signature was missing, wrong or stale.
    """
    import uvloop

    from usher_gateway.settings import parse_endpoint
    from usher_gateway.simulator import receiver, receiving, settings, terminal

    with admin_client.ending_with_message():
        endpoint = parse_endpoint(listen)
        configured = receiver.ReceiverSettings(
            host=endpoint.host,
            port=endpoint.port,
            secrets=tuple(settings.secret(source, "--secret") for source in secret or []),
            tolerance_seconds=tolerance,
            usual=receiving.Behaviour(success_header=success_header),
            tls_certificate=str(tls_cert or ""),
            tls_key=str(tls_key or ""),
        )
        running = receiver.Receiver(configured, on_request=terminal.print_body if show_bodies else None)
        for request_path in path or [receiving.EVERY_PATH]:
            running.command(
                receiving.Command(
                    path=request_path, after_seconds=down_after, for_seconds=down_for or None,
                    kind="Hang" if hang else "Answer", status=fail, delay_seconds=delay,
                    retry_after=retry_after, location=location,
                )
            )  # fmt: skip
        good = uvloop.run(terminal.receive(running, signatures=bool(secret), as_json=output == "json"))
    if not good:
        raise typer.Exit(1)
