"""The command ``usher``: each module of this package registers its own commands."""

import inspect

import typer

import usher_gateway
from usher_gateway.cli import (
    audit,
    check,
    copy,
    database,
    destinations,
    find,
    links,
    listeners,
    listings,
    new,
    open_pages,
    person,
    receive,
    replays,
    run,
    simulate,
    tenants,
    tokens,
    top,
    tries,
    url,
    usage,
)


def build() -> typer.Typer:
    """Return the command line with every command."""
    app = typer.Typer(
        name="usher",
        help="Between Purple WiFi's webhooks and the systems of many companies: durable, exact, fast.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # boxes cut long names in a narrow terminal
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
        if version:
            typer.echo(usher_gateway.__version__)
            raise typer.Exit

    for module in (
        run,
        database,
        check,
        tries,
        url,
        simulate,
        receive,
        replays,
        usage,
        open_pages,
        top,
        tenants,
        listeners,
        destinations,
        listings,
        links,
        find,
        audit,
        tokens,
        person,
        new,
        copy,
    ):
        module.register(app)
    _set_help(app)
    return app


def _set_help(app: typer.Typer) -> None:
    """Put each paragraph of a help text on one line, because typer keeps line breaks in a narrow terminal.

    The list of commands shows the whole first sentence; without ``short_help``, typer would cut it.
    """
    for command in app.registered_commands:
        paragraphs = [" ".join(part.split()) for part in (inspect.getdoc(command.callback) or "").split("\n\n")]
        command.help = "\n\n".join(paragraphs)
        command.short_help = paragraphs[0].split(". ")[0].removesuffix(".") + "."
    for group in app.registered_groups:
        if group.typer_instance is not None:
            group.short_help = str(group.typer_instance.info.help)
            _set_help(group.typer_instance)


def main() -> None:
    """Run the command line; the entry point of the console script."""
    build()()
