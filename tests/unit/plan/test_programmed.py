"""Programmed: every ready gateway runs this very configuration; False only after half a minute."""

from support import views
from unit.plan import samples
from usher_gateway import model
from usher_operator import plan
from usher_operator.plan import reports
from usher_operator.view import Key

KEY = Key("Listener", "default", "lobby")


def told(built: views.MemoryView) -> tuple[str, str]:
    found = built.condition("Listener", samples.LISTENER, "Programmed")
    return found.status, found.reason


def a_gateway_falls_behind(built: views.MemoryView) -> None:
    """As when a Secret or the Tenant changes: the same generation, another document."""
    built.edit("Tenant", "default/acme", displayName="Acme Hotels")


def test_an_edit_is_pending_until_the_gateways_run_it() -> None:
    built = samples.agency()
    built.edit("Listener", samples.LISTENER, silence={"afterSeconds": 60})
    built.settle()
    assert told(built) == ("Unknown", "Pending")
    built.gateways_run_it()
    assert told(built) == ("True", "Programmed")


def test_what_is_no_edit_of_the_resource_leaves_it_true_for_half_a_minute() -> None:
    built = samples.agency()
    a_gateway_falls_behind(built)
    built.settle()
    assert told(built) == ("True", "Programmed")
    built.set(now=views.NOW + reports.GRACE_MICROSECONDS - 1)
    assert told(built) == ("True", "Programmed")
    built.set(now=views.NOW + reports.GRACE_MICROSECONDS)
    assert told(built) == ("False", "GatewayUnavailable")


def test_that_deliveries_are_held_is_told_once_the_gateways_hold_them() -> None:
    built = samples.agency()

    def ready() -> list[tuple[str, str]]:
        built.settle()
        told = [
            built.condition("Listener", samples.LISTENER, "Ready"),
            built.condition("Tenant", "default/acme", "Ready"),
        ]
        return [(one.status, one.reason) for one in told]

    built.edit("Tenant", "default/acme", state="Suspended")
    assert ready() == [("True", "Ready"), ("Unknown", "Pending")]
    built.gateways_run_it()
    assert ready() == [("True", "Suspended")] * 2
    built.edit("Tenant", "default/acme", state="Active")
    assert ready() == [("True", "Suspended"), ("Unknown", "Pending")]
    built.gateways_run_it()
    assert ready() == [("True", "Ready")] * 2


def test_a_plan_that_waits_says_when_to_look_again() -> None:
    built = samples.agency()
    a_gateway_falls_behind(built)
    first = plan.plan(built, KEY)
    assert (first.is_behind, first.again_at) == (True, views.NOW + reports.GRACE_MICROSECONDS)
    built.apply(first)
    built.set(now=views.NOW + 10 * model.MICROSECONDS)
    assert plan.plan(built, KEY).again_at == first.again_at
    built.set(now=first.again_at)
    last = plan.plan(built, KEY)
    assert (last.is_behind, last.again_at) == (True, None)


def test_before_gateways_were_asked_nothing_is_told_anew() -> None:
    built = samples.agency()
    before = plan.plan(built, KEY).status
    built.set(gateways=None)
    found = plan.plan(built, KEY)
    assert (found.status, found.is_behind) == (before, False)


def test_a_gateway_that_cannot_be_reached_does_not_count_as_running_it() -> None:
    built = samples.agency()
    built.gateways_run_it(reachable=False)
    built.settle()
    built.set(now=views.NOW + reports.GRACE_MICROSECONDS)
    assert told(built) == ("False", "GatewayUnavailable")


def test_the_last_good_configuration_is_not_taken_for_the_newest() -> None:
    built = samples.agency()
    built.edit("Listener", samples.LISTENER, fields={"occurredAtZone": "Mars/Olympus"})
    built.settle()
    built.gateways_run_it()
    found = built.condition("Listener", samples.LISTENER, "Programmed")
    assert (found.status, found.reason) == ("Unknown", "Pending")
    assert "last good" in found.message
    assert not plan.plan(built, KEY).is_behind
