"""Rules between the fields of one struct, applied to plain values; the declarations stand in types.py."""

import re
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from usher_gateway.resources import types


class Broken(msgspec.Struct, frozen=True):
    """A rule that does not hold: the field it is about, the field to point at, and what must be."""

    field: str
    at: str
    message: str


def check(rules: Iterable[types.Rule], value: Mapping[str, object]) -> Iterator[Broken]:
    """Every rule that a plain value breaks. Fields count as there also when they are invalid."""
    for rule in rules:
        match rule:
            case types.Union():
                yield from _union(rule, value)
            case types.Exactly():
                yield from _exactly(rule, value)
            case types.Requires():
                if value.get(rule.field) == rule.value and rule.needs not in value:
                    message = f"must have `{rule.needs}` where `{rule.field}` is {rule.value}"
                    yield Broken(rule.needs, rule.field, message)
            case types.Combination():
                yield from _combination(rule, value)
            case types.Forbidden():
                text = value.get(rule.field)
                if isinstance(text, str) and re.fullmatch(rule.pattern, text, re.IGNORECASE):
                    yield Broken(rule.field, rule.field, f"may not be `{text}`: Usher sets it itself")
            case types.Immutable():
                pass  # needs the object before: the API server's to check


def _union(rule: types.Union, value: Mapping[str, object]) -> Iterator[Broken]:
    chosen = value.get(rule.discriminator)
    if not isinstance(chosen, str):
        return
    wanted = rule.members.get(chosen)
    if wanted is not None and wanted not in value:
        yield Broken(wanted, rule.discriminator, f"must have `{wanted}` where `{rule.discriminator}` is {chosen}")
    for member in rule.members.values():
        if member != wanted and member in value:
            yield Broken(member, member, f"must not be set where `{rule.discriminator}` is {chosen}")


def _exactly(rule: types.Exactly, value: Mapping[str, object]) -> Iterator[Broken]:
    there = [field for field in rule.fields if field in value]
    names = " and ".join(f"`{field}`" for field in rule.fields)
    if len(there) != 1:
        yield Broken(there[-1] if there else "", there[-1] if there else "", f"must have exactly one of {names}")


def _combination(rule: types.Combination, value: Mapping[str, object]) -> Iterator[Broken]:
    other = _dig(value, rule.other)
    if _dig(value, rule.field) == rule.value and other is not None and other not in rule.allowed:
        allowed = " or ".join(rule.allowed)
        message = f"must be {allowed} where `{rule.field}` is {rule.value}"
        yield Broken(rule.other, rule.other.partition(".")[0], message)


def _dig(value: object, path: str) -> object:
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
