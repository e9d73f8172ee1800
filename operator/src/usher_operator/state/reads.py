"""Notes the lookups that plans make, so that a change plans again exactly the keys whose plans it may alter.

Each lookup is about one subject: a resource, a Secret, a namespace, a hostname or an address. `Reads` keeps
its answer, and the keys whose last plan asked for it. After a change the cache names the subjects that it may concern.
The lookups about them are made again, and where the answer differs, the keys that read it are planned again. Every
other plan would give the same result.

A plan also reads values without a lookup. The code that changes such a value returns or queues the keys: `Cache`
for the classes and who uses them, the optional APIs and the halted removals, `gateways.GatewayObserver` for gateways'
reports, and `installation.Installation` for the install key. A plan that depends on the time sets ``Plan.again_at``.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple, TypeVar

from usher_operator.state.indexes import GroupIndex
from usher_operator.state.values import Key, Kind

# Limit: a key's place below a limit. Listeners: a Tenant's. Documents: the size of a namespace's documents.
SubjectKind = Kind | Literal["Namespace", "Secret", "Address", "Company", "Limit", "Listeners", "Documents"]

# Kind, and the key or its path, such as `namespace/name`, the hostname, or `values.address_path`.
Subject = tuple[SubjectKind, str | Key]

MethodT = TypeVar("MethodT", bound=Callable[..., Any])


class Lookup(NamedTuple):
    """A question about a subject: a cache method and its arguments."""

    subject: Subject
    method: Callable[..., Any]
    arguments: tuple[Any, ...]


class Reads:
    """The lookups in each key's last plan, with their answers."""

    def __init__(self) -> None:
        self._lookups: GroupIndex[Lookup] = GroupIndex()  # The keys whose last plan made each lookup
        self._answers: dict[Subject, dict[Lookup, Any]] = {}
        self._planned: Key | None = None  # The key that is being planned
        self._noted: dict[Lookup, Any] = {}  # The lookups of its plan until now

    @contextlib.contextmanager
    def of_plan(self, key: Key) -> Iterator[None]:
        """Note the lookups that are made until the block ends, as those for a key's plan."""
        self._planned, self._noted = key, {}
        try:
            yield
        finally:
            self._planned = None
            self._replace(key, self._noted)

    def note(self, lookup: Lookup, answer: Any) -> None:
        """Note a lookup, if a plan is being made.

        Lookups about the planned resource itself are left out: it is planned after each change to it anyway.
        """
        planned = self._planned
        if planned is not None and (planned.kind == "Hostname" or lookup.subject != (planned.kind, planned.path)):
            self._noted[lookup] = answer

    def forget(self, key: Key) -> None:
        """Forget what a key's plan read, because the key is gone."""
        self._replace(key, {})

    def changed(self, view: object, subjects: Iterable[Subject]) -> frozenset[Key]:
        """The keys whose last plan read an answer about these subjects that is another one now."""
        concerned: set[Key] = set()
        for subject in subjects:
            answers = self._answers.get(subject, {})
            for lookup, previous_answer in answers.items():
                answers[lookup] = lookup.method(view, *lookup.arguments)
                if answers[lookup] != previous_answer:
                    concerned |= self._lookups.keys_of(lookup)
        return frozenset(concerned)

    def _replace(self, key: Key, noted: dict[Lookup, Any]) -> None:
        previous_lookups = self._lookups.groups_of(key)
        self._lookups.set(key, noted)
        for lookup, answer in noted.items():
            self._answers.setdefault(lookup.subject, {})[lookup] = answer
        for lookup in previous_lookups - noted.keys():
            if not self._lookups.keys_of(lookup):
                del self._answers[lookup.subject][lookup]
                if not self._answers[lookup.subject]:
                    del self._answers[lookup.subject]


def lookup(kind: SubjectKind | None = None) -> Callable[[MethodT], MethodT]:
    """Mark a cache method as a lookup about the subject that its first argument names.

    The answer must be comparable, and must not change afterwards. The arguments are positional.

    Args:
        kind: the subject's kind; None: the first argument is a `Key`.
    """

    def decorate(method: MethodT) -> MethodT:
        @functools.wraps(method)
        def noted(cache: Any, about: Any, *arguments: Any) -> Any:
            answer = method(cache, about, *arguments)
            subject: Subject = (kind, about) if kind is not None else (about.kind, about.path)
            cache.reads.note(Lookup(subject, method, (about, *arguments)), answer)
            return answer

        return noted  # type: ignore[return-value]

    return decorate
