"""plan(): from everything that is known to what is wanted for one key. Pure: reads no clock, keeps nothing.

Never reads what changed, only what is: planning again gives the same, and in whatever order things came to be.
"""

from collections.abc import Callable

from usher_operator.plan import destination, hostname, listener, listener_class, tenant
from usher_operator.view import Key, Kind, Plan, View

_PLANS: dict[Kind, Callable[[View, Key], Plan]] = {
    "ListenerClass": listener_class.plan,
    "Tenant": tenant.plan,
    "Listener": listener.plan,
    "Destination": destination.plan,
    "Hostname": hostname.plan,
}


def plan(view: View, key: Key) -> Plan:
    """What is wanted for one key. Costs about a millisecond at most."""
    return _PLANS[key.kind](view, key)
