"""The command ``usher``: each module of this package registers its own commands."""

import inspect

import typer

import usher_gateway
from usher_gateway.cli import check, listings, receive, run, simulate, url, usage


def build() -> typer.Typer:
    """Return the command line with every command."""
    app = typer.Typer(
        name="usher",
        help="Between Purple WiFi's webhooks and the systems of many companies: durable, exact, fast.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # boxes cut long names in a narrow terminal
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
        if version:
            typer.echo(usher_gateway.__version__)
            raise typer.Exit

    for module in (run, check, url, simulate, receive, usage, listings):
        module.register(app)
    _unwrap_help(app)
    return app


def _unwrap_help(app: typer.Typer) -> None:
    """Put each paragraph of a help text on one line, because typer keeps line breaks in a narrow terminal."""
    for command in app.registered_commands:
        paragraphs = (inspect.getdoc(command.callback) or "").split("\n\n")
        command.help = "\n\n".join([" ".join(paragraph.split()) for paragraph in paragraphs])
    for group in app.registered_groups:
        if group.typer_instance is not None:
            _unwrap_help(group.typer_instance)


def main() -> None:
    """Run the command line; the entry point of the console script."""
    build()()
