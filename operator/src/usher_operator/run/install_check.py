"""Checks a running install, each check with the rights of the account that runs it. `helm test` uses them."""

from collections.abc import AsyncIterator, Iterable
from typing import Literal

import aiohttp
import msgspec

from usher_gateway.kube.client import ApiError, Client
from usher_operator.state import kinds

_TIMEOUT = aiohttp.ClientTimeout(total=10.0)
_SAMPLE_NAME = "usher-check"
_NOT_READY_HINT = "no pod is ready (`kubectl describe pods` says why), or a NetworkPolicy is in the way"
_CRD_HINT = "install the chart with `crds.enabled`, or apply crds/"


CheckName = Literal["definitions", "ready", "tenant"]


class CheckResult(msgspec.Struct, frozen=True):
    """One check's result."""

    name: str
    problem: str = ""
    """The problem with a hint; `""` if there is none."""


async def check_install(
    api: Client, namespace: str, ready_urls: Iterable[str], only: CheckName | None = None
) -> AsyncIterator[CheckResult]:
    """Check that the API server serves Usher's kinds, that programs are ready, and that a Tenant would be accepted.

    The account needs the right to create Tenants in the namespace; a dry run stores nothing.
    """
    if only in {None, "definitions"}:
        yield CheckResult("the API server serves Usher's kinds", await _find_missing_kinds(api))
    if only in {None, "ready"}:
        for url in ready_urls:
            yield CheckResult(f"{url} is ready", await _ask_readiness(url))
    if only in {None, "tenant"}:
        yield CheckResult("the API server accepts a Tenant (dry run)", await _create_sample(api, namespace))


async def _find_missing_kinds(api: Client) -> str:
    try:
        api_resources = await api.get(kinds.TENANT.root, missing_ok=True) or {}
    except ApiError as error:
        return str(error)
    served = {resource["name"] for resource in api_resources.get("resources", ())}
    missing = [kind.plural for kind in kinds.OWN if kind.plural not in served]
    return f"it does not serve {', '.join(missing)}: {_CRD_HINT}" if missing else ""


async def _ask_readiness(url: str) -> str:
    """Return why a program is not ready; a program that is not ready has no address in a Service."""
    try:
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session, session.get(url) as answer:
            return "" if answer.status == 200 else f"it answers {answer.status}: {(await answer.text())[:1000]}"
    except (aiohttp.ClientError, TimeoutError) as error:
        return f"{type(error).__name__}: {_NOT_READY_HINT}"


async def _create_sample(api: Client, namespace: str) -> str:
    tenant = {
        "apiVersion": kinds.TENANT.api_version,
        "kind": kinds.TENANT.name,
        "metadata": {"name": _SAMPLE_NAME, "namespace": namespace},
        "spec": {"displayName": "Check of the install"},
    }
    try:
        await api.create(kinds.TENANT.collection(namespace), tenant, is_dry_run=True)
    except ApiError as error:
        return str(error)
    return ""
