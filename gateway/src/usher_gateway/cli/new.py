"""``usher new``: writes manifests to begin with."""

import difflib
import re
from typing import Annotated

import typer

from usher_gateway.cli import admin_client

_EPILOG = """\
Example:  usher new recipe mailchimp --namespace hotels --tenant harbour > mailchimp.yaml

List the recipes:  usher new recipe
"""


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(name="new", help="Write manifests to begin with.", no_args_is_help=True)

    @group.command(epilog=_EPILOG)
    def recipe(
        name: Annotated[
            str | None, typer.Argument(envvar="USHER_RECIPE", help="A known system; left out: list them.")
        ] = None,
        *,
        namespace: Annotated[str, typer.Option(envvar="USHER_NAMESPACE", help="Namespace of the tenant.")] = "agency",
        tenant: Annotated[str, typer.Option(envvar="USHER_TENANT", help="Name of the Tenant.")] = "acme",
    ) -> None:
        """Print a Destination for a known system, with its Secret to fill in.

        Its comments say what must be set in the account, what it sends, and which visits a route should select. Check
        it with `usher check`, and try it with `usher destinations test` before a route leads there.
        """
        from usher_gateway import model, recipes
        from usher_gateway.resources import types

        if name is None:
            for recipe_name in recipes.names():
                typer.echo(f"{recipe_name:<18}{recipes.title(recipe_name)}")
            return
        with admin_client.ending_with_message():
            if name not in recipes.names():
                close = difflib.get_close_matches(name.lower(), recipes.names(), n=1)
                hint = f"did you mean `{close[0]}`?" if close else "`usher new recipe` lists them"
                raise model.ConfigurationError(f"there is no recipe {name}", hint)
            for flag, value in (("--namespace", namespace), ("--tenant", tenant)):
                if not re.fullmatch(types.NAME_PATTERN, value):
                    hint = "lower-case letters and digits, with `-` in between"
                    raise model.ConfigurationError(f"{flag}: `{value}` is not a name", hint)
            typer.echo(recipes.filled(name, namespace, tenant), nl=False)

    app.add_typer(group)
