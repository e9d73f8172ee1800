"""The command ``usher``: each module of this package registers its own commands."""

import inspect
import re
from typing import Any

import typer
import typer.core

import usher_gateway
from usher_gateway.cli import (
    admin_client,
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
        cls=_Root,
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


class _Root(typer.core.TyperGroup):
    """The program, which says in Usher's own words what is wrong with the value of a flag."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a wrong value ends it with a message and a hint."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if type(error) is not typer.BadParameter or error.param is None or error.ctx is None:
                raise
            hint = f"`{error.ctx.command_path} --help` says what it may be"
            admin_client.fail(f"{_shown_parameter(error)}: {_problem(error)}", hint, admin_client.USAGE)


def _shown_parameter(error: typer.BadParameter) -> str:
    """Return the flag or the argument with a wrong value; if a variable gave the value, the variable."""
    parameter: Any = error.param
    assert error.ctx is not None
    source = error.ctx.get_parameter_source(parameter.name)
    if source is not None and source.name == "ENVIRONMENT":
        return str(parameter.envvar or f"{error.ctx.auto_envvar_prefix}_{parameter.name.upper()}")
    return str(parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar or parameter.name)


def _problem(error: typer.BadParameter) -> str:
    """Return what is wrong with a value. typer checks most values with pydantic, whose error is the cause."""
    errors: Any = getattr(error.__cause__, "errors", None)
    if errors is None:
        return error.message.removesuffix(".")
    (first, *_) = errors()
    value, bounds = first["input"], first.get("ctx", {})
    match first["type"]:
        case "int_parsing" | "int_from_float":
            return f"{value!r} is not a whole number"
        case "float_parsing":
            return f"{value!r} is not a number"
        case "bool_parsing":
            return f"{value!r} is neither true nor false"
        case "greater_than_equal":
            return f"{value} is less than {bounds['ge']}"
        case "less_than_equal":
            return f"{value} is more than {bounds['le']}"
    return re.sub(r"'(\w+)'(?=,|$)", r"\1", error.message.removeprefix("Value error, ").removesuffix("."))


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
