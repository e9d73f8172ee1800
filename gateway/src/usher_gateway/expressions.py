"""Expressions (CEL): what a tenant may write in ``when`` and ``transform``, checked before the parser sees it.

The core is native: it holds the interpreter's lock, has no cost limit, and crashes on long or deep input. Measured
(common-expression-language 0.10): in a thread with 8 MiB of stack a chain ``a+a+…`` crashes between 10,000 and 20,000
terms, with 512 KiB between 511 and 1,000; macros copy their whole result at every step, so that ``xs.map(x, ys)`` over
1,000 items each takes 32 s. Hence the static bounds below, and an estimate of the work before every evaluation.
Call from threads with at least 1 MiB of stack.
"""

import difflib
import functools
import itertools
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import cel
import msgspec

from usher_gateway import model

Where = Literal["when", "transform"]
"""Where an expression stands: a filter, which gives true or false, or what makes a delivery's document."""

MAX_LENGTH = 1024
"""Longest expression, in characters."""

MAX_DEPTH = 24
"""Deepest nesting of brackets; the parser itself gives up at 96."""

MAX_PATTERN_LENGTH = 100
"""Longest pattern of ``matches``; only a literal can be checked."""

MAX_MATCHES = 4
"""Most uses of ``matches``: each compiles its pattern at every evaluation, up to 6 ms."""

MAX_ITEMS = 1000
"""Arrays of a body are cut to this many items."""

MAX_WORK = 50_000_000
"""Most estimated work of one evaluation; a unit is about a nanosecond."""

VISIT_FIELDS = frozenset(model.Visit.__struct_fields__) | {"receivedAt", "occurredAt", "late"}
"""What ``visit`` has."""

MACROS = frozenset({"all", "exists", "exists_one", "existsOne", "map", "filter"})
"""Comprehensions: they run their argument once per item."""

FUNCTIONS = frozenset(
    {
        "bytes",
        "contains",
        "double",
        "duration",
        "dyn",
        "endsWith",
        "getDate",
        "getDayOfMonth",
        "getDayOfWeek",
        "getDayOfYear",
        "getFullYear",
        "getHours",
        "getMilliseconds",
        "getMinutes",
        "getMonth",
        "getSeconds",
        "has",
        "int",
        "matches",
        "size",
        "startsWith",
        "string",
        "timestamp",
        "type",
        "uint",
    }
)
"""Functions that there are."""

_NODE_WORK = 70
_PLAIN_WORK = 4  # what converting a value in and out costs more than copying it inside the core
_HIDES_REPETITION = re.compile(r"\\[xXuU0-9]|\(\?[a-zA-Z-]*x|\}[{?]")
_MOST_REPEATED = 10_000
_STATE_WORK = 8
_ROOTS = frozenset({"visit", "body"})
_KEYWORDS = frozenset({"true", "false", "null", "in"})
_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
      | (?P<text>[bB]?[rR]?(?:\"{3}.*?\"{3}|'{3}.*?'{3})
          |(?:[rR][bB]?|[bB][rR])(?:"[^"\n]*"|'[^'\n]*')
          |[bB]?(?:"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
      | (?P<word>[_a-zA-Z][_a-zA-Z0-9]*)
      | (?P<number>(?:0[xX][0-9a-fA-F]+|[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|\.[0-9]+)[uU]?)
      | (?P<mark>&&|\|\||==|!=|<=|>=|.)""",
    re.VERBOSE | re.DOTALL,
)


def visit_values(visit: model.Visit, received_at: int, *, late: bool) -> dict[str, object]:
    """What ``visit`` is in an expression: times (microseconds) become RFC 3339 text, ``""`` where there is none."""
    occurred_at = "" if visit.occurredAt is None else model.format_time(visit.occurredAt)
    times = {"receivedAt": model.format_time(received_at), "occurredAt": occurred_at, "late": late}
    return msgspec.structs.asdict(visit) | times


class Evaluation(msgspec.Struct, frozen=True):
    """What an evaluation gave: a value, or an error code; and what it cost."""

    value: Any = None
    error_code: str = ""
    """One word without anything of the data: see ``_code_of``; ``""`` where there is a value."""
    cpu_seconds: float = 0.0
    """CPU time of the calling thread."""


class _Token(msgspec.Struct, frozen=True):
    kind: str
    text: str
    at: int
    depth: int


class Program:
    """A checked expression, ready to be evaluated; one that is not valid evaluates to ``ExpressionInvalid``."""

    def __init__(self, source: str, where: Where) -> None:
        self.source = source
        self.where = where
        self.problems, self._program = _compile(source, where)
        tokens = [] if self.problems else _tokens(source)
        names = [token.text for token in _variables(tokens)]
        self.uses_body = "body" in names
        """Whether the expression mentions ``body``."""
        self._parts = {root: _parts(tokens, root) for root in _ROOTS if root in names}
        self._has_macro = any(True for _ in _macros(tokens))
        self._most_literal_items = 1 + sum(token.text == "," for token in tokens)
        self._match_work = _match_work(tokens)
        pluses = sum(token.text == "+" for token in tokens)
        self._factor = len(names) * (1 + pluses // 2)

    def evaluate(self, visit: Mapping[str, object], body: object = None) -> Evaluation:
        """Evaluate over a visit and, if the expression mentions it, the body as parsed JSON. Never raises."""
        if self._program is None:
            return Evaluation(error_code="ExpressionInvalid")
        started = time.thread_time_ns()
        value, code = self._evaluate(visit, body)
        return Evaluation(value, code, (time.thread_time_ns() - started) / 1e9)

    def _evaluate(self, visit: Mapping[str, object], body: object) -> tuple[Any, str]:
        try:
            scale = _Scale()
            given = {"visit": visit, "body": body}
            values = {root: scale.part(given[root], parts) for root, parts in self._parts.items()}
            if self._work(scale) > MAX_WORK:
                return None, "TooExpensive"
            value = self._program.execute(values)
        except Exception as error:  # noqa: BLE001 - what the core raises is data: it becomes a code
            return None, _code_of(error)
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # how a panic of the native core arrives
                raise
            return None, "Panic"
        if self.where == "when" and not isinstance(value, bool):
            return None, "NotBoolean"
        return value, ""

    def _work(self, scale: "_Scale") -> int:
        """An upper estimate: each name may stand for everything; a macro copies its growing result per item."""
        weight, repeats = scale.weight, _PLAIN_WORK
        if self._has_macro:
            longest = max(scale.longest, self._most_literal_items)
            weight, repeats = scale.heaviest, longest * longest // 2
        return (max(weight, 1) * max(repeats, 1) + scale.characters * self._match_work) * self._factor


@functools.lru_cache(maxsize=16_384)
def compile_expression(source: str, where: Where) -> Program:
    """The program of an expression, kept: the same text is parsed once."""
    return Program(source, where)


def check_expression(source: str, where: Where) -> list[str]:
    """Every problem of an expression, each with what to do about it; empty where there is none."""
    return list(compile_expression(source, where).problems)


def _compile(source: str, where: Where) -> tuple[tuple[str, ...], Any]:
    if len(source) > MAX_LENGTH:
        return (f"must have at most {MAX_LENGTH} characters, has {len(source)}",), None
    tokens = _tokens(source)
    found = list(_static_problems(tokens, where))
    if any(token.depth > MAX_DEPTH for token in tokens):
        return tuple(found), None
    try:
        program = cel.compile(source)
    except Exception as error:  # noqa: BLE001 - the parser's own words become a problem
        return (_parse_problem(str(error)), *found), None
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        return ("cannot be parsed; write it in a simpler way", *found), None
    found.extend(_name_problems(tokens))
    return tuple(found), None if found else program


def _tokens(source: str) -> list[_Token]:
    tokens, depth = [], 0
    for match in _TOKEN.finditer(source):
        kind, text = match.lastgroup or "mark", match.group()
        if kind == "space":
            continue
        if text in {"(", "[", "{"}:
            depth += 1
        tokens.append(_Token(kind, text, match.start(), depth))
        if text in {")", "]", "}"}:
            depth -= 1
    return tokens


def _static_problems(tokens: list[_Token], where: Where) -> Iterator[str]:
    if any(token.depth > MAX_DEPTH for token in tokens):
        yield f"must not nest brackets deeper than {MAX_DEPTH}"
    macros = list(_macros(tokens))
    allowed = 0 if where == "when" else 1
    if len(macros) > allowed:
        name = tokens[macros[allowed]].text
        limit = "may not be used in `when`" if where == "when" else "may be used once only in `transform`"
        yield f"`{name}` {limit} (column {tokens[macros[allowed]].at + 1}): it runs over lists, which costs too much"
    for index in macros:
        yield from _macro_problems(tokens, index)
    yield from _matches_problems(tokens)


def _macros(tokens: list[_Token]) -> Iterator[int]:
    """Where a comprehension macro is called."""
    for index, token in enumerate(tokens[:-1]):
        if token.kind == "word" and token.text in MACROS and tokens[index + 1].text == "(" and index > 0:
            yield index


def _macro_problems(tokens: list[_Token], index: int) -> Iterator[str]:
    depth = tokens[index + 1].depth
    for token in tokens[index + 2 :]:
        if token.text == ")" and token.depth == depth:
            return
        if token.kind == "word" and token.text in {"body", "matches"}:
            yield f"`{token.text}` may not be used inside `{tokens[index].text}` (column {token.at + 1}): once per item"


def _matches_problems(tokens: list[_Token]) -> Iterator[str]:
    uses = [index for index, token in enumerate(tokens) if token.kind == "word" and token.text == "matches"]
    if len(uses) > MAX_MATCHES:
        yield f"`matches` may be used {MAX_MATCHES} times, is used {len(uses)} times"
    for index in uses:
        call = tokens[index + 1 : index + 4]
        column = tokens[index].at + 1
        if [token.text for token in call[:1]] != ["("]:
            continue
        if len(call) < 3 or call[1].kind != "text" or call[2].text != ")":
            yield f"`matches` must have one literal pattern (column {column}), such as matches('^a.*')"
        elif _literal_length(call[1].text) > MAX_PATTERN_LENGTH:
            yield f"the pattern of `matches` must have at most {MAX_PATTERN_LENGTH} characters (column {column})"


def _literal_length(text: str) -> int:
    """Characters between the quotes of a literal."""
    quoted = text.lstrip("bBrR")
    return len(quoted) - (6 if quoted[:3] in {'"""', "'''"} else 2)


def _match_work(tokens: list[_Token]) -> int:
    """Work per character of text: a pattern is followed in all its states, and repetitions multiply these."""
    return _STATE_WORK * sum(
        _states(after.text) for token, _, after in zip(tokens, tokens[1:], tokens[2:], strict=False) if _is_match(token)
    )


def _states(pattern: str) -> int:
    """An upper estimate of the states of a pattern, from its literal: repeated groups multiply, the rest adds up."""
    if _HIDES_REPETITION.search(pattern):
        return len(pattern) * _MOST_REPEATED
    states, groups = len(pattern), 1
    for before, braces in re.findall(r"(.)\{([^}]*)\}", pattern, re.DOTALL):
        times = max([1, *map(int, re.findall(r"[0-9]+", braces))])
        if before in ")}":
            groups *= times
        else:
            states += times
    return states * groups


def _is_match(token: _Token) -> bool:
    return token.kind == "word" and token.text == "matches"


def _variables(tokens: list[_Token]) -> Iterator[_Token]:
    """Words that stand for a value: no member, no function, no keyword, no key of a message."""
    for index, token in enumerate(tokens):
        before = tokens[index - 1].text if index else ""
        after = tokens[index + 1].text if index + 1 < len(tokens) else ""
        if token.kind == "word" and token.text not in _KEYWORDS and before != "." and after not in {"(", "{"}:
            yield token


_Parts = dict[str, "_Parts | None"]
"""Members that are read, nested; None: the whole value."""


def _parts(tokens: list[_Token], root: str) -> _Parts | None:
    """What an expression reads of a root: converting a value into the core costs more than most expressions."""
    found: _Parts = {}
    variables = {token.at for token in _variables(tokens)}
    for index, token in enumerate(tokens):
        if token.text == root and token.at in variables:
            chain = _chain(tokens[index + 1 :])
            if not chain:
                return None
            _add(found, chain)
    return found


def _chain(tokens: list[_Token]) -> list[str]:
    """The members that follow a name: ``.a.b`` gives a and b; a method is no member."""
    chain = []
    for dot, member, after in itertools.zip_longest(tokens[::2], tokens[1::2], tokens[2::2]):
        called = after is not None and after.text == "("
        if dot is None or member is None or dot.text != "." or member.kind != "word" or called:
            break
        chain.append(member.text)
    return chain


def _add(parts: _Parts, chain: list[str]) -> None:
    """Add one chain; a value that is read whole stays whole."""
    for name in chain[:-1]:
        inner = parts.setdefault(name, {})
        if inner is None:
            return
        parts = inner
    parts[chain[-1]] = None


def _name_problems(tokens: list[_Token]) -> Iterator[str]:
    """Names that are nowhere defined: found here, not at the first visit."""
    bound = {tokens[index + 2].text for index in _macros(tokens) if index + 2 < len(tokens)}
    known = bound | _ROOTS
    for name in sorted(bound & _ROOTS):
        yield f"`{name}` may not be the name of a loop's item: call it something else"
    for token in _variables(tokens):
        if token.text not in known:
            hint = _hint(token.text, known, "use `visit` or `body`")
            yield f"`{token.text}` is not defined (column {token.at + 1}){hint}"
    for token, after in itertools.pairwise(tokens):
        called = token.kind == "word" and token.text not in _KEYWORDS and after.text in {"(", "{"}
        if called and (after.text == "{" or token.text not in FUNCTIONS | MACROS):
            yield f"there is no function `{token.text}` (column {token.at + 1}){_hint(token.text, FUNCTIONS)}"
    for first, dot, member in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if first.text == "visit" and first.kind == "word" and dot.text == "." and member.text not in VISIT_FIELDS:
            hint = _hint(member.text, VISIT_FIELDS, "what Purple sent is in `body`")
            yield f"`visit` has no `{member.text}` (column {member.at + 1}){hint}"


def _hint(word: str, known: Iterable[str], otherwise: str = "") -> str:
    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    hint = f"did you mean `{close[0]}`?" if close else otherwise
    return f": {hint}" if hint else ""


_UNEXPECTED = re.compile(
    r"(?:mismatched input|extraneous input|no viable alternative at input) (?P<what>.+?)(?: expecting (?P<instead>.+))?"
)
"""How the parser says that something stands where it must not."""


def _parse_problem(text: str) -> str:
    """The parser's first complaint that has a position, without its list of all tokens that there are."""
    found = re.search(r"<input>:(\d+):(\d+): Syntax error: ([^\n]*)", text) or re.search(
        r"<input>:(\d+):(\d+): ([^\n]*)", text
    )
    if found is None:
        return "cannot be parsed"
    line, column, what = found.groups()
    unexpected = _UNEXPECTED.fullmatch(re.sub(r" expecting \{.*", "", what))
    if unexpected is not None:
        there, instead = unexpected["what"], unexpected["instead"]
        what = f"{there} stands where {instead} should" if instead else f"{there} was not expected here"
    what = re.sub("'?<EOF>'?", "the end", what)
    return f"cannot be parsed at line {line}, column {column}: {what}"


def _code_of(error: Exception) -> str:
    """A code for what the core raised. Its text is never kept: it may quote the data."""
    match error:
        case KeyError():
            return "NoSuchField"
        case TypeError():
            return "NoSuchOverload"
        case ArithmeticError():
            return "Arithmetic"
        case IndexError():
            return "OutOfRange"
        case ValueError():
            return "BadValue"
        case RecursionError():
            return "TooDeep"
    return "EvaluationFailed"


class _Scale:
    """Copies JSON with its arrays cut, and weighs it on the way."""

    def __init__(self) -> None:
        self.weight = 0
        self.characters = 0
        """Of all texts together."""
        self.longest = 0
        """Most items of an array, or keys of an object: macros run over both."""
        self.heaviest = 0
        """The heaviest single thing that a step of a macro may copy: an item of an array, a key, or a text."""

    def part(self, value: object, parts: _Parts | None) -> object:
        """A copy of what is read of a value."""
        if parts is None or not isinstance(value, Mapping):
            return self.cut(value)
        self.weight += _NODE_WORK
        return {name: self.part(value[name], inner) for name, inner in parts.items() if name in value}

    def cut(self, value: object) -> object:
        self.weight += _NODE_WORK
        if isinstance(value, str):
            self._text(value)
            return value
        if isinstance(value, Mapping):
            self.longest = max(self.longest, len(value))
            return {self._text(key): self.cut(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            self.longest = max(self.longest, min(len(value), MAX_ITEMS))
            return [self._item(item) for item in value[:MAX_ITEMS]]
        return value

    def _text(self, text: str) -> str:
        self.weight += len(text)
        self.characters += len(text)
        self.heaviest = max(self.heaviest, _NODE_WORK + len(text))
        return text

    def _item(self, item: object) -> object:
        before = self.weight
        result = self.cut(item)
        self.heaviest = max(self.heaviest, self.weight - before)
        return result
