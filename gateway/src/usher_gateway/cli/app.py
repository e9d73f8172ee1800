"""The command ``usher``: finds its commands by listing this package; each file registers its own."""

import importlib
import inspect
import pkgutil

import typer

import usher_gateway
from usher_gateway import cli


def build() -> typer.Typer:
    """The command line with every command of the package: each module with a ``register(app)`` adds its own."""
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

    for module in sorted(info.name for info in pkgutil.iter_modules(cli.__path__)):
        command = importlib.import_module(f"{cli.__name__}.{module}")
        if hasattr(command, "register"):
            command.register(app)
    _unwrap_help(app)
    return app


def _unwrap_help(app: typer.Typer) -> None:
    """Each paragraph of a docstring on one line: typer keeps line breaks, which are ragged on a narrow terminal."""
    for command in app.registered_commands:
        paragraphs = (inspect.getdoc(command.callback) or "").split("\n\n")
        command.help = "\n\n".join([" ".join(paragraph.split()) for paragraph in paragraphs])
    for group in app.registered_groups:
        if group.typer_instance is not None:
            _unwrap_help(group.typer_instance)


def run() -> None:
    """Entry point of the console script."""
    build()()
