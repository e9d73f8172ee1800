"""``usher simulate``: runs a sender that behaves like Purple."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from usher_gateway.cli import admin_client

if TYPE_CHECKING:
    from usher_gateway.simulator import settings

_EPILOG = (
    "Example:  usher simulate https://hooks.example.com/v1/TOKEN --visits 200 --rate 20 --retry-after 20"
    "   or, with `usher run` on this machine:  usher simulate http://localhost/v1/TOKEN --connect 127.0.0.1:8080"
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=_EPILOG, context_settings={"auto_envvar_prefix": "USHER_SIMULATE"})(simulate)


def simulate(
    *,
    urls: Annotated[
        list[str],
        typer.Argument(
            metavar="URL…", help="Listeners to post to; each has its own books.", envvar="USHER_SIMULATE_URLS"
        ),
    ],
    visits: Annotated[int, typer.Option(min=1, help="Authentications for each URL, including repeats.")] = 200,
    rate: Annotated[float, typer.Option(min=0.01, help="Authentications per real second for each URL.")] = 20.0,
    duration: Annotated[
        str,
        typer.Option(
            help="Instead of --rate: spread the visits over this simulated time (30m, 24h) with busy and quiet hours."
        ),
    ] = "",
    day: Annotated[
        Literal["hotel", "cafe", "stadium", "flat"],
        typer.Option(help="With --duration: the kind of place, which sets the busy hours."),
    ] = "hotel",
    time_scale: Annotated[
        float,
        typer.Option(
            min=0.001,
            help="Run simulated time this many times as fast; Usher needs the same value (usher run --time-scale).",
        ),
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed sends the same visitors at the same times.")] = 1,
    repeats: Annotated[
        float, typer.Option(min=0, max=1, help="Share that is the same visitor again within the hour.")
    ] = 0.15,
    hang_ups: Annotated[
        float, typer.Option(min=0, max=1, help="Share on which the sender hangs up before the answer and retries.")
    ] = 0.0,
    company: Annotated[
        list[str] | None, typer.Option(help="Company id for the first URL, the second …; default 77, 78 …")
    ] = None,
    connect: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="Connect to this address; Host header, SNI and certificate name stay those of the URL.",
        ),
    ] = "",
    ca: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="CA certificate (PEM) to trust instead of those of the system."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Do not check the certificate, although Purple does.")
    ] = False,
    basic: Annotated[
        str, typer.Option(metavar="SOURCE", help="Basic authentication: env:NAME or file:PATH with user:password.")
    ] = "",
    header: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SOURCE", help="A header with a credential: X-Key=env:NAME or X-Key=file:PATH."),
    ] = None,
    retry_after: Annotated[
        float, typer.Option(min=0.1, help="Simulated seconds until a failed request is sent again; Purple: 3 hours.")
    ] = 10_800.0,
    disable_after: Annotated[
        float, typer.Option(min=0.1, help="Simulated seconds with failures only until the hook is disabled.")
    ] = 259_200.0,
    patience: Annotated[
        float, typer.Option(min=0, help="At the end, stop after this many real seconds of retries without success.")
    ] = 60.0,
    validate: Annotated[bool, typer.Option(help='Begin with the portal\'s "Save and Validate".')] = True,
    validate_only: Annotated[bool, typer.Option("--validate-only", help="Only validate.")] = False,
    output: admin_client.DocumentOutput = "text",
) -> None:
    """Post visits to listeners as Purple does, and say whether they would survive it.

    Only 200 with the header wifiWebhookListener: 1 within 10 s is success. A failed visit is sent again 3 hours
    later, and after a prolonged time of failures the hook is disabled. The people are made up. Ctrl-C stops and
    prints the books. Exit code 1: a visit is unacknowledged, or an answer was wrong.
    """
    import uvloop

    from usher_gateway.settings import parse_endpoint
    from usher_gateway.simulator import schedule, settings, terminal

    with admin_client.ending_with_message():
        curve = getattr(schedule, day.upper()) if duration else schedule.FLAT
        seconds = settings.seconds(duration, "--duration") if duration else visits / rate * time_scale
        pattern = schedule.Pattern(
            authentications=visits, duration_seconds=seconds, curve=curve, repeats=repeats, hang_ups=hang_ups
        )
        targets = _targets(urls, company or [], seed, settings.credentials(basic, header or []))
        endpoint = parse_endpoint(connect) if connect else None
        configured = settings.SimulatorSettings(
            targets=targets, pattern=pattern, time_scale=time_scale, tls="Insecure" if insecure else "Verify",
            connect=(endpoint.host, endpoint.port) if endpoint else None, ca=str(ca or ""),
            retry_seconds=retry_after, disable_seconds=disable_after, patience_seconds=patience,
            validate=validate or validate_only, validate_only=validate_only,
        )  # fmt: skip
        report = terminal.report(configured, uvloop.run(terminal.simulate(configured)))
        terminal.show_report(configured, report, as_json=output == "json")
    if not report.survives:
        raise typer.Exit(1)


def _targets(
    urls: list[str], companies: list[str], seed: int, credentials: tuple[tuple[str, str], ...]
) -> "tuple[settings.SimulatorTarget, ...]":
    """Return a target with its own company and visitors for each URL."""
    from usher_gateway.simulator import schedule, settings

    ids = companies or [str(77 + number) for number in range(len(urls))]
    return tuple(
        settings.SimulatorTarget(
            url=url,
            company=schedule.Company(ids[number % len(ids)], seed * 100 + number, 9_100 + 100 * number),
            headers=credentials,
        )
        for number, url in enumerate(urls)
    )
