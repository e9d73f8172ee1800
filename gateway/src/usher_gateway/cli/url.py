"""``usher url``: prints each listener's URLs, ready to paste into the portal."""

import os
import pathlib
from typing import TYPE_CHECKING, Annotated

import typer

from usher_gateway.cli import admin_client, tables
from usher_gateway.resources import conditions
from usher_gateway.words import listings

if TYPE_CHECKING:
    from usher_gateway import documents

_EPILOG = "Example:  usher url examples/quickstart.yaml   or   usher url --tenant agency/acme"


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(epilog=_EPILOG)
    def url(
        files: Annotated[
            list[pathlib.Path] | None,
            typer.Argument(
                envvar="USHER_FILES",
                help="YAML files, folders of *.yaml and *.yml, or - for standard input. Without one, ask a gateway.",
            ),
        ] = None,
        *,
        data: Annotated[
            pathlib.Path,
            typer.Option(envvar="USHER_DATA", help="Folder of install.key and of the tokens, as in usher run."),
        ] = admin_client.DATA,
        new_key: Annotated[
            bool,
            typer.Option("--new-key", envvar="USHER_NEW_KEY", help="Create install.key in --data if it is missing."),
        ] = False,
        tenant: Annotated[str | None, typer.Option(envvar="USHER_TENANT", help=listings.TENANT.help)] = None,
        namespace: Annotated[str | None, typer.Option(envvar="USHER_NAMESPACE", help=listings.NAMESPACE.help)] = None,
        listener: Annotated[str | None, typer.Option(envvar="USHER_LISTENER", help=listings.LISTENER.help)] = None,
        output: admin_client.OutputOption = "text",
        admin: admin_client.Admin = admin_client.ADMIN,
    ) -> None:
        """Print each listener's URLs, ready to paste into the portal.

        A URL is a credential: anyone who has it can post visits. It is derived from the install key
        (USHER_INSTALL_KEY, or DATA/install.key), so the same key gives the same URLs again. Without a key the command
        fails, because URLs of another key than the gateway's would not work.

        Without files the command asks a running gateway for the URLs of a tenant, a listener or a namespace. Its audit
        log records that.
        """
        from usher_gateway import model
        from usher_gateway.config import install_key
        from usher_gateway.config.files import load_once

        if not files:
            if tenant is None and listener is None and namespace is None:
                hint = (
                    "give --tenant, --listener or --namespace to ask a running gateway, or name manifests, as in "
                    "`usher url manifests/`; in a cluster the Secret LISTENER-url has them too"
                )
                admin_client.fail("this needs to know whose URLs to print", hint, admin_client.USAGE)
            client = admin_client.AdminClient(admin, data, operate=True)
            rows = _ask(client, listener=listener, namespace=namespace, tenant=tenant)
            _print(rows, output)
            raise typer.Exit(0 if rows else admin_client.WRONG)
        admin_client.require_files(files)
        is_new = not os.environ.get(install_key.VARIABLE) and not (data / install_key.FILE_NAME).exists()
        with admin_client.ending_with_message():
            keys = model.derive_keys(install_key.load_install_key(data, os.environ, may_create=new_key))
        if is_new:
            tables.print_text(
                f"A new install key was made in {data}: these URLs hold where `usher run` has --data {data}.", err=True
            )
        configuration = load_once(files, keys)
        rows = [row for document in configuration.snapshot.listeners.values() for row in _rows(document)]
        rows = _select(rows, namespace=namespace, tenant=tenant, listener=listener)
        _print(rows, output)
        if configuration.rejected:
            count = listings.counted(sum(not problem.because for problem in configuration.rejected), "mistake")
            hint = "see `usher check` with the same files"
            tables.print_text(f"URLs can be missing because of {count}: {hint}", err=True)
        raise typer.Exit(1 if configuration.rejected or not rows else 0)


def _ask(client: admin_client.AdminClient, **names: str | None) -> list[dict[str, str]]:
    """Return a tenant's or listener's rows, as a gateway has them; unknown names end the command."""
    rows = []
    for listener in client.get("/api/listeners", **names)["rows"]:
        name = {"namespace": listener["namespace"], "tenant": listener["tenant"], "listener": listener["name"]}
        path = f"/api/listeners/{admin_client.quoted(name['namespace'])}/{admin_client.quoted(name['listener'])}/urls"
        rows += [
            {**name, "url": address["url"], "note": _note(address["action"], address["until"])}
            for address in client.get(path)["rows"]
        ]
    return rows


def _select(
    rows: list[dict[str, str]], *, namespace: str | None, tenant: str | None, listener: str | None
) -> list[dict[str, str]]:
    """Return the rows with these names; a tenant is ``NAME`` or ``NAMESPACE/NAME``. Unknown names end the command."""
    if tenant is not None and "/" in tenant:
        namespace, _, tenant = tenant.partition("/")
    for what, name in (("namespace", namespace), ("tenant", tenant), ("listener", listener)):
        if name is None:
            continue
        names = {row[what] for row in rows}
        if name not in names:
            hint = conditions.did_you_mean(name, names)
            admin_client.fail(f"there is no {what} `{name}`", hint, admin_client.USAGE)
        rows = [row for row in rows if row[what] == name]
    return rows


def _rows(listener: "documents.ListenerDocument") -> list[dict[str, str]]:
    from usher_gateway import model

    return [
        {
            "namespace": listener.namespace,
            "tenant": listener.tenant.name,
            "listener": listener.name,
            "url": address.url,
            "note": _note(address.action, model.time_or_none(address.until)),
        }
        for address in listener.addresses
    ]


def _note(action: str, until: str | None) -> str:
    words = ["old token, held"] if action == "Hold" else []
    if until:
        words.append(f"until {until}")
    return ", ".join(words)


def _print(rows: list[dict[str, str]], output: tables.OutputFormat) -> None:
    """Print plain lines, because a table would break long URLs."""
    if output != "text":
        tables.print_rows(rows, (), output, "")
        return
    last_title = ""
    for row in rows:
        title = f"{row['namespace']}/{row['listener']} (tenant {row['tenant']})"
        if title != last_title:
            typer.echo(title)
        last_title = title
        typer.echo(f"  {row['url']}" + (f"  ({row['note']})" if row["note"] else ""))
