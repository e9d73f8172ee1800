"""Says which install owns a resource. Only the owner writes its status and its Events. Pure.

Every install computes the owner from the same resources, and an install knows only the controllerName in another
install's classes:

- A ListenerClass names its install. A Listener belongs to its class's install.
- A Tenant or a Destination belongs to the install of the oldest ListenerClass that the Listeners with a reference to it
  name.
- If no class is left by that, the oldest class that permits the namespace decides, else the oldest class overall.
- A class whose status says that no operator serves it decides nothing beside other classes, because nobody would write
  the statuses.

Classes made in the same second are ordered by name. Each install publishes the documents that its own gateways need,
also for resources whose status another install writes.

Without any ListenerClass each install counts as the owner, because nothing tells them apart. Installs with two versions
may disagree while one cannot read a class. ``RewriteBackoff`` bounds what these two cases cost.
"""

from collections.abc import Iterable

from usher_gateway import resources
from usher_gateway.resources import hostnames, types
from usher_operator.state.values import CachedResource, Key
from usher_operator.state.view import View

_Class = CachedResource[resources.ListenerClass]


def owner_of(view: View, key: Key) -> str:
    """The controllerName for the install that owns a resource."""
    unreadable = view.unreadable(key) or view.ending(key)
    match key.kind:
        case "ListenerClass":
            own_class = view.classes.get(key.name)
            named = own_class.resource.spec.controller_name if own_class else unreadable and unreadable.controller_name
            return named or view.settings.controller_name
        case "Listener":
            listener = view.listener(key.path)
            class_name = listener.resource.class_name if listener else unreadable.class_name if unreadable else ""
            if class_name in view.classes:
                return view.classes[class_name].resource.spec.controller_name
            used: Iterable[str] = ()
        case _:
            used = view.classes_using(key)
    served = [listener_class for listener_class in view.classes.values() if not listener_class.is_unserved] or [
        *view.classes.values()
    ]
    permitted = _permitting(view, served, key.namespace)
    used_and_permitted = [
        listener_class for listener_class in permitted if listener_class.resource.metadata.name in used
    ]
    oldest = min(used_and_permitted or permitted or served, key=_age, default=None)
    return oldest.resource.spec.controller_name if oldest is not None else view.settings.controller_name


def is_foreign_namespace(view: View, namespace: str) -> bool:
    """True if only other installs' classes permit a namespace, so that its tenants belong to those installs."""
    names = {
        listener_class.resource.spec.controller_name
        for listener_class in _permitting(view, view.classes.values(), namespace)
    }
    return bool(names) and view.settings.controller_name not in names


def is_permitted(view: View, listener_class: _Class, namespace: str) -> bool:
    """True if a class permits a namespace."""
    labels = {**view.namespace_labels(namespace), types.NAMESPACE_LABEL: namespace}
    return hostnames.permits(listener_class.resource.spec.namespaces, labels)


def _permitting(view: View, classes: Iterable[_Class], namespace: str) -> list[_Class]:
    return [listener_class for listener_class in classes if is_permitted(view, listener_class, namespace)]


def _age(listener_class: _Class) -> tuple[str, str]:
    return listener_class.created, listener_class.resource.metadata.name
