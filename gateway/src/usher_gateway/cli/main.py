"""The command ``usher``: each module in this package registers its own commands, and is imported when one is called."""

import importlib
import inspect
from typing import Any

import typer
import typer.core
import typer.main

import usher_gateway

# Command -> the module that registers it, in the help's order.
_MODULES = {
    "run": "run",
    "migrate": "database",
    "check": "check",
    "try": "tries",
    "url": "url",
    "simulate": "simulate",
    "receive": "receive",
    "usage": "usage",
    "open": "open_pages",
    "top": "top",
    "listeners": "listeners",
    "find": "find",
    "audit": "audit",
    "copy": "copy",
    "replays": "replays",
    "tenants": "tenants",
    "destinations": "destinations",
    "dead": "listings",
    "deliveries": "listings",
    "quarantine": "listings",
    "visits": "listings",
    "link": "links",
    "tokens": "tokens",
    "person": "person",
    "new": "new",
}


class _Commands(typer.core.TyperGroup):
    """The ``usher`` commands. Importing all their modules takes longer than most commands run."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - typer gives it
        """Return all command names."""
        return list(_MODULES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - typer gives it
        """Return a command. For a wrong name import all, because typer then suggests a similar one."""
        if cmd_name not in self.commands:
            for module in {_MODULES[cmd_name]} if cmd_name in _MODULES else dict.fromkeys(_MODULES.values()):
                self.commands.update(_commands_of(module))
        return self.commands.get(cmd_name)


def _commands_of(module: str) -> dict[str, Any]:
    app = typer.Typer(rich_markup_mode=None, callback=lambda: None)  # with a callback, it is a group in any case
    importlib.import_module(f"{__package__}.{module}").register(app)
    _set_help(app)
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def build() -> typer.Typer:
    """Return the command line with every command."""
    app = typer.Typer(
        name="usher",
        cls=_Commands,
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

    return app


def _set_help(app: typer.Typer) -> None:
    """Put each paragraph in a help text on one line, because typer keeps line breaks in a narrow terminal.

    The command list shows the whole first sentence; without ``short_help``, typer would cut it.
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
    """Run the command line; the console script's entry point."""
    build()()
