"""Writes the rules between fields as CEL (`x-kubernetes-validations`), so that an API server rejects what files reject.

It uses only functions of core CEL. The messages are those of `resources/types.py`.
"""

import itertools
import json
from typing import Any

from usher_gateway.resources import types

Validation = dict[str, Any]  # One entry of `x-kubernetes-validations`

# Words that CEL requires to be escaped as names of fields.
RESERVED = frozenset(
    {
        *("true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if"),
        *("import", "let", "loop", "package", "namespace", "return", "var", "void", "while"),
    }
)


def validations(rule: types.Rule, required: frozenset[str]) -> list[Validation]:
    """Return a rule of one struct. ``required``: dotted paths that are always set. Immutable: see transition()."""
    match rule:
        case types.Union():
            return _union(rule)
        case types.Exactly():
            return _exactly(rule)
        case types.Requires():
            message = f"must have `{rule.needs}` if `{rule.field}` is {rule.value}"
            return [_required(_implies(rule.field, rule.value, f"has({_field(rule.needs)})"), message, rule.needs)]
        case types.Combination():
            return [_combination(rule, required)]
        case types.Forbidden():
            check = f"!{_field(rule.field)}.matches({text(f'^(?i:{rule.pattern})$')})"
            return [_invalid(check, "may not be a header that HTTP or Usher sets", rule.field)]
        case types.Immutable():
            return []


def transition(rule: types.Immutable, spec: str, default: str, required: frozenset[str]) -> Validation:
    """Return what an update may not change.

    It is a rule of the whole object, so that leaving `spec` out does not avoid it.

    Args:
        rule: The field.
        spec: Name of the field that holds the struct with the rule.
        default: The default of the field, so that spelling it out does not count as a change; ``""``: none.
        required: Dotted paths below the object that are always set.
    """
    path = f"{spec}.{rule.field}"
    old, new = _given("oldSelf", path, required), _given("self", path, required)
    same = f"{_dotted('self', path)} == {_dotted('oldSelf', path)}"
    if not old:
        check = same
    elif rule.late:
        check = f"{_not(old)} || ({new} && {same})"
    elif default:
        now = f"({new} ? {_dotted('self', path)} : {text(default)})"
        check = f"{now} == ({old} ? {_dotted('oldSelf', path)} : {text(default)})"
    else:
        check = f"({new}) == ({old}) && ({_not(new)} || {same})"
    message = "may not be changed once it is set" if rule.late else "may not be changed"
    return _invalid(check, f"{message}; make a new object instead", path)


def keys(pattern: str, max_length: int) -> Validation:
    """Return the rule for the form of a map's keys."""
    check = f"self.all(key, key.size() <= {max_length} && key.matches({text(pattern)}))"
    return {"rule": check, "message": "keys must have a form such as `example.com/name`"}


def text(value: str) -> str:
    """Return a CEL literal."""
    return json.dumps(value, ensure_ascii=False)


def _union(rule: types.Union) -> list[Validation]:
    validations = []
    for value, member in rule.members.items():
        there = f"has({_field(member)})"
        message = f"must have `{member}` if `{rule.discriminator}` is {value}"
        validations.append(_required(_implies(rule.discriminator, value, there), message, member))
        alone = f"{_field(rule.discriminator)} == {text(value)} || !{there}"
        message = f"must not be set if `{rule.discriminator}` is not {value}"
        validations.append({**_invalid(alone, message, member), "reason": "FieldValueForbidden"})
    return validations


def _exactly(rule: types.Exactly) -> list[Validation]:
    names = " and ".join(f"`{field}`" for field in rule.fields)
    message = f"must have exactly one of {names}"
    there = [f"has({_field(field)})" for field in rule.fields]
    single = " && ".join(f"!({first} && {second})" for first, second in itertools.combinations(there, 2))
    return [{"rule": " || ".join(there), "message": message}, _invalid(single, message, rule.fields[-1])]


def _combination(rule: types.Combination, required: frozenset[str]) -> Validation:
    chosen = _all_of(_given("self", rule.field, required), f"{_dotted('self', rule.field)} == {text(rule.value)}")
    other = _dotted("self", rule.other)
    allowed = f"{other} in [{', '.join(text(value) for value in rule.allowed)}]"
    missing = _given("self", rule.other, required)
    checks = [_not(chosen), _not(missing), allowed]
    check = " || ".join(part for part in checks if part)
    message = f"must be {' or '.join(rule.allowed)} if `{rule.field}` is {rule.value}"
    return _invalid(check, message, rule.other)


def _implies(field: str, value: str, then: str) -> str:
    return f"{_field(field)} != {text(value)} || {then}"


def _required(check: str, message: str, field: str) -> Validation:
    return {"rule": check, "message": message, "fieldPath": f".{field}", "reason": "FieldValueRequired"}


def _invalid(check: str, message: str, field: str) -> Validation:
    return {"rule": check, "message": message, "fieldPath": f".{field}"}


def _given(root: str, path: str, required: frozenset[str]) -> str:
    """Return the check that every optional field on a dotted path is set; ``""`` if none is optional."""
    names = path.split(".")
    steps = [".".join(names[: count + 1]) for count in range(len(names))]
    return _all_of(*(f"has({_dotted(root, step)})" for step in steps if step not in required))


def _not(check: str) -> str:
    """Return the negation of a check; ``""`` for ``""``."""
    return f"!({check})" if "&&" in check or "==" in check else check and f"!{check}"


def _all_of(*checks: str) -> str:
    return " && ".join(part for part in checks if part)


def _field(name: str) -> str:
    return _dotted("self", name)


def _dotted(root: str, path: str) -> str:
    return ".".join([root, *(f"__{name}__" if name in RESERVED else name for name in path.split("."))])
