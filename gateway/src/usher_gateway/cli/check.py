"""``usher check``: lists every problem in manifests at once."""

import os
import pathlib
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from usher_gateway.cli import admin_client, check_body, tables
from usher_gateway.words import listings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from usher_gateway import documents, model
    from usher_gateway.config.files import FileConfiguration
    from usher_gateway.destinations import address_guard
    from usher_gateway.resources import address_moves, conditions
    from usher_gateway.resources.manifests import LoadedObject

_EPILOG = """\
Example:  usher check examples/agency/   or   usher check --output json listener.yaml secrets.yaml

From a template:  helm template agency | usher check -

How does Usher read a body?  usher check listener.yaml --body visit.json   or   usher check --body visit.json

Which URLs would an edit move?  usher check new/ --against old/   or   usher check new/ --against http://127.0.0.1:9090
"""

_FOLLOWING = 5  # Most objects that are named as failing because of one problem


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(epilog=_EPILOG)
    def check(
        files: Annotated[
            list[pathlib.Path] | None,
            typer.Argument(
                envvar="USHER_FILES", help="YAML files, folders of *.yaml and *.yml, or - for standard input."
            ),
        ] = None,
        *,
        output: admin_client.DocumentOutput = "text",
        allow_destination: Annotated[
            list[str] | None,
            typer.Option(envvar="USHER_ALLOW_DESTINATION", help="As in `usher run`: CIDR or HOST[:PORT]."),
        ] = None,
        listen: Annotated[
            str | None,
            typer.Option(
                metavar="HOST:PORT",
                envvar="USHER_LISTEN",
                help="As in `usher run`. Unless it is on loopback, destinations on loopback are pointed out too.",
            ),
        ] = None,
        against: Annotated[
            str | None,
            typer.Option(
                metavar="URL|FILE",
                envvar="USHER_AGAINST",
                help="List every address that the manifests would take out of service: compare with a running "
                "gateway (the URL of its admin port), or with a file or folder.",
            ),
        ] = None,
        body: Annotated[
            pathlib.Path | None,
            typer.Option(
                metavar="FILE|-",
                envvar="USHER_BODY",
                help="Print how each listener reads a body: the place and class of each field, and whether the time is "
                "trusted. An expression that fails on it is a problem. Values of personal fields are not printed. No "
                "manifests are needed.",
            ),
        ] = None,
        strict: Annotated[
            bool, typer.Option("--strict", envvar="USHER_STRICT", help="Every warning is an error.")
        ] = False,
        data: admin_client.Data = admin_client.DATA,
    ) -> None:
        """List everything that is wrong with manifests: file and line, field, problem, and a hint.

        Each expression is tried and measured on sample bodies, where a failure is a warning, and tried on the body of
        --body, where it is a problem. The exit code is 1 if there is a problem, else 0. Warnings, notices and moved
        addresses do not count as problems.
        """
        import msgspec

        from usher_gateway import settings
        from usher_gateway.config.files import NO_CONFIGURATION, load_once
        from usher_gateway.destinations import address_guard
        from usher_gateway.resources import conditions

        compared = [pathlib.Path(against)] if against and not _is_gateway(against) else []
        admin_client.require_files([*compared, *([body] if body else [])])
        if not files and body is None:
            admin_client.fail("there is nothing to check", "name manifests, or a body (--body)", admin_client.USAGE)
        if body == check_body.STANDARD_INPUT and body in (files or ()):
            admin_client.fail("standard input is read once", "give a file for one of the two", admin_client.USAGE)
        with admin_client.ending_with_message():
            keys = _keys(against, data)
            has_loopback = listen is None or settings.parse_endpoint(listen).is_loopback
            allowed = (*(allow_destination or ()), *((address_guard.LOOPBACK,) * has_loopback))
            guard = address_guard.AddressGuard(allowed)
        configuration = load_once(files, keys) if files else NO_CONFIGURATION
        old = _load_old(pathlib.Path(against), keys) if against and not _is_gateway(against) else None
        moves = _moves(against, data, old, configuration) if against else []
        content = check_body.read_content(body) if body else None
        all_problems = (*configuration.problems, *_expensive(configuration), *_out_of_reach(configuration, guard))
        all_problems = (
            *all_problems,
            *_shared_companies(configuration),
            *_different_periods(configuration),
            *_placeholders(configuration),
            *(_inherited_urls(old, configuration) if old else ()),
            *(check_body.find_failures(content, configuration) if content is not None else ()),
        )
        problems = sorted(_as_errors(all_problems) if strict else all_problems)
        readings = check_body.read_body(content, _listeners(configuration)) if content is not None else []
        if output == "json":
            report = {"problems": problems, "moves": moves, "bodies": readings}
            tables.print_json(msgspec.to_builtins(report))
        else:
            if body:
                check_body.print_readings(body, readings)
            if files:
                _print_text(problems, configuration)
                _print_next_step(files, problems, configuration)
            if against:
                _print_moves(moves, against)
        is_wrong = conditions.has_errors(problems) or any(reading.is_wrong for reading in readings)
        raise typer.Exit(1 if is_wrong else 0)


def _listeners(configuration: "FileConfiguration") -> "Iterator[documents.ListenerDocument]":
    """Yield every valid listener in the manifests: those that would run, and those whose Tenant or class is elsewhere.

    How a listener reads a body depends on neither, except for the Tenant's company.
    """
    from usher_gateway import documents, resources
    from usher_gateway.resources import compiler
    from usher_gateway.resources.listener_document import check_listener, listener_document

    yield from configuration.snapshot.listeners.values()
    for loaded in configuration.objects.values():
        listener = loaded.resource
        if not isinstance(listener, resources.Listener) or listener.key in configuration.snapshot.listeners:
            continue
        if all(finding.severity != "error" for finding in check_listener(listener)):
            yield listener_document(
                listener,
                tenant=documents.TenantDocument(listener.spec.tenant_ref.name),
                addresses=(),
                authentication=documents.Authentication(),
                class_spec=compiler.IMPLICIT_CLASS,
                trusted_proxies=(),
            )


def _expensive(configuration: "FileConfiguration") -> "Iterator[conditions.Problem]":
    """Yield a warning for each valid expression that takes long on a sample, on this machine."""
    from usher_gateway import resources
    from usher_gateway.expressions import samples
    from usher_gateway.ingest import cpu_limits

    for loaded in configuration.objects.values():
        if not isinstance(loaded.resource, resources.Listener | resources.Destination):
            continue
        for path, source, where in loaded.resource.expressions:
            if samples.check_expression(source, where).problems:
                continue
            seconds = samples.measure(source, where)
            if seconds >= cpu_limits.EXPENSIVE_SECONDS:
                message = f"takes {seconds * 1000:.1f} ms on a sample body; a busy listener would hold its deliveries"
                yield loaded.problem(path, message, "see the limits of time in docs/expressions.md", "warning")


def _shared_companies(configuration: "FileConfiguration") -> "Iterator[conditions.Problem]":
    """Yield a warning for each Tenant whose ``companyID`` another Tenant in its namespace has as well."""
    from usher_gateway import resources

    first: dict[tuple[str, str], LoadedObject] = {}
    for loaded in configuration.objects.values():
        tenant = loaded.resource
        if not isinstance(tenant, resources.Tenant) or not tenant.spec.company_id:
            continue
        other = first.setdefault((tenant.metadata.namespace, tenant.spec.company_id), loaded)
        if other is not loaded:
            path = "spec.companyID"
            place = f"{other.file}:{other.line_of(path)}"
            message = f"Tenant {other.resource.metadata.name} has the same company ({place})"
            hint = "correct one of the two; a company with several webhooks is one Tenant with several Listeners"
            yield loaded.problem(path, message, hint, "warning")


def _different_periods(configuration: "FileConfiguration") -> "Iterator[conditions.Problem]":
    """Yield an error for each rule ``oncePer`` whose period differs from another listener's rule with the same name."""
    from usher_gateway import resources

    first: dict[tuple[str, str, str], tuple[str, str]] = {}
    for (_, key), loaded in configuration.objects.items():
        listener = loaded.resource
        if not isinstance(listener, resources.Listener):
            continue
        for path, rule in listener.named_rules:
            other, every = first.setdefault((*listener.owner, str(rule.name)), (key, rule.every))
            if every != rule.every and other != key:
                message = (
                    f"Listener {other} has a rule `{rule.name}` for {every}: rules that share a name need one period"
                )
                hint = "write the same period in both, or give them different names"
                yield loaded.problem(path, message, hint)


# Recipes have it instead of values that only the account's owner knows, also after `whsec_` and in `data`.
_PLACEHOLDERS = {"replace-me": "`replace-me`", "cmVwbGFjZS1tZ": "`replace-me` in base64"}


def _placeholders(configuration: "FileConfiguration") -> "Iterator[conditions.Problem]":
    """Yield a warning for each field in which a recipe's placeholder was left."""
    import msgspec

    for loaded in configuration.objects.values():
        for path, text in _texts(msgspec.to_builtins(loaded.resource), ""):
            found = next(
                (description for placeholder, description in _PLACEHOLDERS.items() if placeholder in text), None
            )
            if found is not None:
                message = f"still has the placeholder of a recipe ({found})"
                hint = "put in a value of your own; the comments of the recipe say which"
                yield loaded.problem(path, message, hint, "warning")


def _texts(value: object, path: str) -> "Iterator[tuple[str, str]]":
    """Yield every text inside a value, with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{path}[{index}]")


def _as_errors(problems: "Iterable[conditions.Problem]") -> "Iterator[conditions.Problem]":
    import msgspec

    for problem in problems:
        yield msgspec.structs.replace(problem, severity="error") if problem.severity == "warning" else problem


def _out_of_reach(
    configuration: "FileConfiguration", guard: "address_guard.AddressGuard"
) -> "Iterator[conditions.Problem]":
    """Yield destinations whose URL has an address that the gateway refuses; host names are not resolved here."""
    from usher_gateway.destinations import http

    for key, destination in configuration.snapshot.destinations.items():
        url, loaded = http.parse_url(destination.url), configuration.objects.get(("Destination", key))
        reason = http.literal_refusal(guard, destination.url)
        if url is not None and loaded is not None and reason is not None:
            yield loaded.problem(
                "spec.http.url",
                f"{url.raw_host} is not a public address ({reason}): "
                "the gateway sends nothing to it unless it is allowed",
                f"if this is meant, give `--allow-destination {url.host_port_subcomponent}` here and to `usher run` "
                "(in the chart: `gateway.allowDestinations`)",
                "notice",
            )


def _is_gateway(against: str | None) -> bool:
    return against is not None and against.startswith(("http://", "https://"))


def _keys(against: str | None, data: pathlib.Path) -> "model.Keys":
    """Return the keys that the URLs are derived from: the gateway's, or any if files are compared with each other."""
    from usher_gateway import model
    from usher_gateway.config import install_key

    if not _is_gateway(against):
        return model.derive_keys(bytes(32))
    return model.derive_keys(install_key.load_install_key(data, os.environ, may_create=False))


def _load_old(path: pathlib.Path, keys: "model.Keys") -> "FileConfiguration":
    """Read the manifests with which the new ones are compared; ends the program if they have no listener."""
    from usher_gateway.config.files import load_once

    old = load_once([path], keys)
    if not old.snapshot.listeners:
        admin_client.fail(f"{path} has no listener to compare with", "`usher check` on it says why", 2)
    return old


def _inherited_urls(old: "FileConfiguration", configuration: "FileConfiguration") -> "Iterator[conditions.Problem]":
    """Yield the listeners that return under another Tenant of the same name, as the `uid` in exported manifests shows.

    A token depends on names only, so such a listener has the URL that the namespace's former owner knows.
    """
    from usher_gateway import resources

    for identity in old.objects.keys() & configuration.objects.keys():
        previous, current = old.objects[identity].resource, configuration.objects[identity]
        if not isinstance(previous, resources.Listener) or not isinstance(current.resource, resources.Listener):
            continue
        if previous.owner != current.resource.owner or previous.spec.token != current.resource.spec.token:
            continue
        tenant = "/".join(previous.owner)
        tenants = [side.objects.get(("Tenant", tenant)) for side in (old, configuration)]
        if len({loaded.resource.metadata.uid for loaded in tenants if loaded is not None} - {""}) == 2:
            yield current.problem(
                "spec.tenantRef.name",
                f"Tenant {tenant} is another object than before, and the listener inherits the URL of the former one",
                "if the namespace has a new owner, give the Tenant another name (docs/admission.md)",
                "warning",
            )


def _moves(
    against: str, data: pathlib.Path, old: "FileConfiguration | None", configuration: "FileConfiguration"
) -> "list[address_moves.AddressMove]":
    """Return the served addresses that the manifests would take out of service."""
    from usher_gateway.resources import address_moves

    if old is None:
        rows = admin_client.AdminClient(against, data).get("/api/listeners")["rows"]
        served = [
            address_moves.KnownAddress(f"{row['namespace']}/{row['name']}", row["tenant"], identifier, f"https://{url}")
            for row in rows
            for identifier, url in zip(row["addressIds"], row["addresses"], strict=False)  # retired ones come last
        ]
    else:
        served = address_moves.addresses_of(old.snapshot.listeners)
    rejected = {problem.resource for problem in configuration.rejected}  # the gateway keeps serving them as before
    judged = [address for address in served if f"Listener {address.listener}" not in rejected]
    return address_moves.find_moves(judged, configuration.snapshot.listeners)


def _print_moves(moves: "list[address_moves.AddressMove]", against: str) -> None:
    for move in moves:
        typer.echo(f"{move.listener}: {move.url} {move.outcome}")
        if move.replacements:
            typer.echo(f"    the listener gets {', '.join(move.replacements)}: change the URL in the portal")
    outcome = f"{listings.counted(len(moves), 'URL')} would go out of service"
    typer.echo(f"compared with {against}: {outcome if moves else 'every URL stays'}")


def _print_text(problems: "list[conditions.Problem]", configuration: "FileConfiguration") -> None:
    following: dict[str, list[conditions.Problem]] = {}
    for problem in problems:
        if problem.because:
            following.setdefault(problem.because, []).append(problem)
    causes = [problem for problem in problems if not problem.because]
    causes.sort(key=lambda problem: problem.severity == "error")  # the errors last, where a reader of many looks first
    last = {name: index for index, problem in enumerate(causes) for name in _names(problem)}
    for index, problem in enumerate(causes):
        print_problem(problem)
        for name in _names(problem):
            if name in following and last[name] == index:
                _print_following(following[name])
    errors = sum(problem.severity == "error" for problem in causes)
    snapshot = configuration.snapshot
    listeners = listings.counted(len(snapshot.listeners), "listener")
    destinations = listings.counted(len(snapshot.destinations), "destination")
    warnings = sum(problem.severity == "warning" for problem in causes)
    outcome = listings.counted(errors, "problem") if errors else "no problems"
    outcome += f", {listings.counted(warnings, 'warning')}" if warnings else ""
    typer.echo(f"{listeners} and {destinations} would run; {outcome}")


def _print_next_step(
    files: list[pathlib.Path], problems: "list[conditions.Problem]", configuration: "FileConfiguration"
) -> None:
    """Say how to try listeners that are valid."""
    from usher_gateway.resources import conditions

    if configuration.snapshot.listeners and not conditions.has_errors(problems):
        command = shlex.join(["usher", "try", *map(str, files)])
        tables.print_text(f"`{command}` tries this on the visits that a running gateway has stored.", err=True)


def _names(problem: "conditions.Problem") -> tuple[str, str]:
    """Return the ``because`` values in problems that this one causes."""
    return problem.resource, problem.file_and_line


def print_problem(problem: "conditions.Problem") -> None:
    """Print a problem with its place and its hint."""
    colours = {"error": typer.colors.RED, "warning": typer.colors.YELLOW, "notice": typer.colors.CYAN}
    what = ": ".join(part for part in (problem.resource, problem.path, problem.message) if part)
    typer.echo(f"{problem.file_and_line}: {typer.style(problem.severity, fg=colours[problem.severity])}: {what}")
    if problem.hint:
        tables.print_text(problem.hint, lead="    ")


def _print_following(problems: "list[conditions.Problem]") -> None:
    """Print the objects that only fail because of the problem above."""
    affected = dict.fromkeys(f"{problem.resource} ({problem.file_and_line})" for problem in problems)
    names = ", ".join(list(affected)[:_FOLLOWING])
    more = f" and {len(affected) - _FOLLOWING} more" if len(affected) > _FOLLOWING else ""
    typer.echo(f"    because of this, something is missing for {names}{more}")
