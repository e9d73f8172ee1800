"""Plans ListenerClass, Tenant and Destination: the kinds whose plans are short. Pure.

- A ListenerClass has a status only: the Hostname key owns the children for the class's hostname.
- A Tenant has no children, and its Ready sums up its listeners' Ready conditions.
- A Destination has a config Secret and a status.
"""

import urllib.parse

import msgspec

from usher_gateway import config_secret, documents, model, resources
from usher_gateway.resources import conditions, hostnames
from usher_gateway.resources.listener_class import check_class
from usher_gateway.resources.removal_limit import (
    HaltedRemovals,
    confirm_command,
    confirmations_of,
    describe_halts,
    describe_unused,
)
from usher_gateway.resources.tenant import check_tenant
from usher_operator.plan import common, compiling, hostname, ownership, reports
from usher_operator.plan.common import ConditionBuilder
from usher_operator.state.values import (
    FINGERPRINT_FIELD,
    HALTED_FIELD,
    CachedResource,
    ConditionType,
    Key,
    ListenerReadiness,
    OperatorReason,
    Plan,
    ResourceStatus,
    StatusCondition,
)
from usher_operator.state.view import View

# A Destination's status field: host and port in its document's URL, for a column. The whole URL may contain a
# secret.
HOST_FIELD = "host"

_Type = ConditionType
_NEEDED_OF_CLASS = (_Type.CertificateReady, _Type.Exposed)
_NEEDED_OF_DESTINATION = (_Type.ResolvedRefs, _Type.Programmed)  # Conditions besides Accepted on which Ready depends
_UNSERVED_MICROSECONDS = 60 * model.MICROSECONDS  # A class that has no condition for this long is served by no operator
_MAX_NAMES = 3  # Listeners that a message names


def plan_listener_class(view: View, key: Key) -> Plan:
    """The plan for a ListenerClass."""
    cached = view.classes.get(key.name)
    if cached is None:
        return common.plan_absent(view, key, _NEEDED_OF_CLASS)
    if not view.is_ours(cached):
        return _plan_foreign_class(view, key, cached)
    builder = ConditionBuilder(cached.resource.metadata.generation, cached.conditions)
    certificate = hostname.certificate_state(view, cached.resource.spec, cached.resource.spec.hostname)
    parts = [
        _class_accepted(view, cached, builder),
        builder.from_state(_Type.CertificateReady, certificate),
        builder.from_state(
            _Type.Exposed, hostname.exposed_state(view, cached.resource.spec, cached.resource.spec.hostname)
        ),
        *reports.reachable(view, [cached.resource.spec.hostname], builder),
        *_hostnames_shared(view, cached.resource, builder),
    ]
    unknown = (certificate.unknown_secret,) if certificate.unknown_secret else ()
    status = builder.status(parts, fields=_class_fields(view, cached))
    return Plan(key, (), status, unknown_secrets=unknown)


def _plan_foreign_class(view: View, key: Key, cached: CachedResource[resources.ListenerClass]) -> Plan:
    """The plan for another install's class: its status says so if no operator serves it.

    That is known if no operator wrote to the class within a minute, or if this install served it before under
    another controllerName. The operator that serves the class replaces the status.
    """
    if cached.conditions:
        if not cached.is_unserved and not view.is_abandoned(key.name):
            return Plan(key)
    else:
        since = view.behind_since(key)
        until = (view.now if since is None else since) + _UNSERVED_MICROSECONDS
        if view.now < until:
            return Plan(key, is_behind=True, again_at=until)
    builder, name = ConditionBuilder(cached.resource.metadata.generation, ()), cached.resource.spec.controller_name
    message = (
        f"no operator serves the `controllerName` `{name}`: run one with `--controller-name={name}` (in the chart: "
        "`controllerName`), or create another class with the name that the operator has"
    )
    accepted = builder.false(_Type.Accepted, OperatorReason.NotServed, message)
    return Plan(key, status=builder.status([accepted], fields=dict(cached.fields)))


def _class_fields(view: View, cached: CachedResource[resources.ListenerClass]) -> dict[str, object]:
    """The install key fingerprint with which the class was first reconciled, and the removals that wait.

    The fingerprint never changes. A class that is new while the key is wrong gets none, so that nothing is wrong once
    the right key is back.
    """
    if view.keys is None or common.publishing_state(view) is not None:
        return dict(cached.fields)
    fields = {FINGERPRINT_FIELD: cached.fields.get(FINGERPRINT_FIELD) or model.key_fingerprint(view.keys.install)}
    halted = cached.halted if view.halted is None else {halt.namespace: halt.digest for halt in view.halted}
    if halted:
        entries = [{"namespace": namespace, "hash": digest} for namespace, digest in halted.items()]
        fields[HALTED_FIELD] = entries[: conditions.MAX_HALTED]
    return fields


def _class_accepted(
    view: View, cached: CachedResource[resources.ListenerClass], builder: ConditionBuilder
) -> StatusCondition:
    declared, previous = cached.resource, builder.previous(_Type.Accepted)
    blocking_state = common.publishing_state(view)
    if blocking_state is not None:
        return builder.from_state(_Type.Accepted, blocking_state)
    if view.halted is None and previous is not None and previous.reason == OperatorReason.RemovalsHalted:
        return previous  # the guard has not decided yet whether they wait
    if view.halted:
        unused = describe_unused(confirmations_of(declared.metadata.annotations), view.halted)
        message = _halted(declared.metadata.name, view.halted) + (f"; {unused}" if unused else "")
        return builder.false(_Type.Accepted, OperatorReason.RemovalsHalted, message)
    (accepted,) = builder.from_findings(check_class(declared), [_Type.Accepted])
    return accepted


def _hostnames_shared(
    view: View, declared: resources.ListenerClass, builder: ConditionBuilder
) -> list[StatusCondition]:
    """HostnamesShared, while another install's class allows some hostnames that this class allows."""
    for name, other in sorted(view.classes.items()):
        pattern = hostnames.first_overlap(declared.spec.hostname_patterns, other.resource.spec.hostname_patterns)
        if pattern is None or view.is_ours(other):
            continue
        message = (
            f"`{pattern}` overlaps with a hostname of ListenerClass `{name}` of another install "
            f"(`{other.resource.spec.controller_name}`), so both could serve one hostname for different tenants: "
            "`hostname` and `allowedHostnames` of one of the two must be changed"
        )
        return [builder.true(_Type.HostnamesShared, OperatorReason.HostnamesShared, message)]
    return []


def _halted(class_name: str, halts: tuple[HaltedRemovals, ...]) -> str:
    command = confirm_command(class_name, min(halts))
    other = "; to confirm several, put their hashes there with commas between them" if len(halts) > 1 else ""
    return (
        "removals wait, because too many objects or addresses of a namespace or all listeners would go out of service "
        f"at once; to confirm those named first, run: {command}{other}; the hashes: {describe_halts(halts)}"
    )


def plan_tenant(view: View, key: Key) -> Plan:
    """The plan for a Tenant."""
    cached = view.tenant(key.path)
    if cached is None:
        return common.plan_absent(view, key, ())
    if ownership.is_foreign_namespace(view, key.namespace):
        return Plan(key)
    if unpublished := common.plan_unpublished(view, key, cached, (), needs_secrets=False):
        return unpublished
    builder = ConditionBuilder(cached.resource.metadata.generation, cached.conditions)
    (accepted,) = builder.from_findings(check_tenant(cached.resource), [_Type.Accepted])
    is_suspended = cached.resource.spec.state == "Suspended"
    shared = _company_shared(view, key, cached.resource, builder)
    status = builder.status([accepted, *shared], "`state` is Suspended: deliveries are held" if is_suspended else "")
    if accepted.status == "True":
        status = _with_listeners(view, key, builder, status, is_suspended=is_suspended)
    return Plan(key, (), status)


def _company_shared(view: View, key: Key, tenant: resources.Tenant, builder: ConditionBuilder) -> list[StatusCondition]:
    """CompanyShared, while another Tenant in the namespace has the same company."""
    company_id = tenant.spec.company_id
    names = view.tenants_of(f"{key.namespace}/{company_id}", 2) if company_id else ()
    other = next((name for name in names if name != key.name), None)
    if other is None:
        return []
    message = (
        f"Tenant `{other}` has the same `companyID`: one of the two must be corrected; a company with several webhooks "
        "is one Tenant with several Listeners"
    )
    return [builder.true(_Type.CompanyShared, OperatorReason.CompanyShared, message)]


def _with_listeners(
    view: View, key: Key, builder: ConditionBuilder, status: ResourceStatus, *, is_suspended: bool
) -> ResourceStatus:
    """The status with a Ready that is True only if every listener is ready."""
    unready: dict[str, list[str]] = {"False": [], "Unknown": []}
    for state, names in view.listeners_of(key.path, _MAX_NAMES + 1).items():
        ready_status = _ready_status(state, is_tenant_suspended=is_suspended)
        if ready_status != "True":
            unready[ready_status] += names
    if unready["False"]:
        message = (
            f"not ready: {_named_listeners(unready['False'])}; the conditions of each listener say what must be done"
        )
        ready = builder.false(_Type.Ready, OperatorReason.ListenersNotReady, message)
    elif unready["Unknown"]:
        ready = builder.pending(_Type.Ready, f"waiting for {_named_listeners(unready['Unknown'])}")
    else:
        return status
    return msgspec.structs.replace(status, conditions={**status.conditions, ready.type: ready})


def _ready_status(state: ListenerReadiness, *, is_tenant_suspended: bool) -> str:
    """A listener's Ready status; Unknown while gateways have not applied a suspension change."""
    should_be_held = state.is_suspended or is_tenant_suspended
    return "Unknown" if state.ready == "True" and state.is_held != should_be_held else state.ready


def _named_listeners(names: list[str]) -> str:
    """The first listener names. The text has no count, because a status has no counters."""
    noun = "listener" if len(names) == 1 else "listeners"
    first = ", ".join(f"`{name}`" for name in sorted(names)[:_MAX_NAMES])
    return f"{noun} {first} and others" if len(names) > _MAX_NAMES else f"{noun} {first}"


def plan_destination(view: View, key: Key) -> Plan:
    """The plan for a Destination."""
    cached = view.destination(key.path)
    if cached is None:
        return common.plan_absent(view, key, _NEEDED_OF_DESTINATION)
    if ownership.is_foreign_namespace(view, key.namespace):
        return Plan(key)
    if unpublished := common.plan_unpublished(view, key, cached, _NEEDED_OF_DESTINATION):
        return unpublished
    builder = ConditionBuilder(cached.resource.metadata.generation, cached.conditions)
    assert view.keys is not None  # without them nothing is published
    compiled = compiling.compile_destination(view, cached, view.keys)
    publication = common.publish(view, key, cached, compiled)
    parts = builder.from_findings(compiled.findings, [_Type.Accepted, _Type.ResolvedRefs])
    parts[0] = publication.accepted or parts[0]
    programmed = reports.programmed(view, key, publication.wanted, builder)
    parts += [programmed.condition, *reports.of_destination(view, key.path, builder)]
    is_paused = cached.resource.spec.state == "Paused"
    desired = (publication.child,) if publication.child else ()
    return Plan(
        key,
        None if publication.stays else desired,
        builder.status(
            parts,
            "`state` is Paused: deliveries are held" if is_paused else "",
            fields={HOST_FIELD: _host(publication.document)},
        ),
        is_behind=programmed.is_behind,
        again_at=programmed.again_at,
        unknown_secrets=compiled.unknown_secrets,
    )


def _host(document: config_secret.Document | None) -> str:
    """The host to which visits are sent. It may be another one than the spec's, until a Secret is there."""
    if not isinstance(document, documents.DestinationDocument):
        return ""
    try:
        return urllib.parse.urlsplit(document.url).netloc
    except ValueError:
        return ""
