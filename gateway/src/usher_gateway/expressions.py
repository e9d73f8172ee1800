"""Expressions (CEL) that tenants write in ``when`` and ``transform``: static checks, and evaluation within bounds.

The native core that evaluates them holds the interpreter's lock, has no cost limit, and crashes on long or deep input.
Measured with common-expression-language 0.10:

- A chain ``a+a+…`` or ``a.b.c…`` crashes a thread with 8 MiB of stack between 10,000 and 20,000 terms, one with 1 MiB
  between 1,000 and 2,000, and one with 512 KiB between 511 and 1,000.
- A macro copies its whole result at every step, so that ``xs.map(x, ys)`` over 1,000 items each takes 32 s.
- Its own ``matches`` compiles the pattern at every evaluation, up to 100 ms each.

So this module checks the bounds below before the parser sees the text, and estimates the work before every evaluation.
RE2 evaluates ``matches``: it compiles a pattern once, within a limit of memory, and its time is linear in the text.
Call this module from threads with at least 1 MiB of stack.
"""

import collections
import difflib
import functools
import itertools
import logging
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import cel
import msgspec
import re2

from usher_gateway import expression_functions, expression_order, model

Where = Literal["when", "transform", "variable", "answer"]
"""The use of an expression: ``when`` is a filter (true or false), ``transform`` makes the document of a delivery,
``variable`` a part of its URL (a text or a whole number), and ``answer`` says whether a rule applies to a destination's
answer (true or false)."""

Source = tuple[str, Where]
"""The text of an expression and its field."""

MAX_LENGTH: Mapping[Where, int] = {"when": 1024, "transform": 4096, "variable": 4096, "answer": 1024}
"""Longest expression, in characters."""

MAX_OPERATORS = 500
"""Most operators, dots and indexes of an expression: a chain of them takes stack for each."""

MAX_DEPTH = 24
"""Deepest nesting of brackets; the parser itself gives up at 96."""

MAX_PATTERN_LENGTH = 100
"""Longest pattern of ``matches``, in characters. It must be a literal, because only a literal can be checked."""

MAX_MATCHES = 4
"""Most uses of ``matches``."""

MAX_PATTERN_MEMORY = 128 * 1024
"""Most memory of a compiled pattern, in bytes. A larger one is refused within about 2 ms, before it is complete."""

MAX_PATTERNS = 2048
"""Most compiled patterns in memory. They take at most 256 MiB, and usually a few kilobytes each."""

MAX_ITEMS = 1000
"""Longest array of a body, in items; longer ones are cut."""

MAX_WORK = 50_000_000
"""Most estimated work of one evaluation. A unit is about a nanosecond."""

MAX_CACHED_CHARACTERS = 2_000_000
"""Most characters of the expressions whose programs stay in memory. A character takes up to 85 bytes."""

MAX_CHECKED = 16_384
"""Expressions whose check is remembered. If there are more, all of them are checked again once."""

VISIT_FIELDS = frozenset(model.Visit.__struct_fields__) | {"receivedAt", "occurredAt", "late", "tenant", "listener"}
"""The members of ``visit`` in a filter."""

DELIVERY_FIELDS = VISIT_FIELDS | {"id", "repeat"}
"""The members of ``visit`` in a transform: a filter decides before the store knows them all."""

MACROS = frozenset({"all", "exists", "exists_one", "existsOne", "map", "filter"})
"""Comprehension macros. They evaluate their argument once per item."""

FUNCTIONS = frozenset(
    {
        *expression_functions.FUNCTIONS,
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
"""The functions that an expression may call."""

_PROGRAM_CHARACTERS = 50
"""A program takes as much memory as this many characters, besides those of its text."""

_NODE_WORK = 70
_KEY_WORK = 300  # more than a value's, because the core tries several types for each
_PLAIN_WORK = 4  # converting a value in and out costs this much more than copying it inside the core
_STATE_WORK = 10
_MATCHES = "matchesWithRE2"
"""The function that replaces ``matches`` in the text for the core, because the core's own one cannot be replaced."""
_ROOTS: Mapping[Where, frozenset[str]] = {
    "when": frozenset({"visit", "body"}),
    "transform": frozenset({"visit", "body"}),
    "variable": frozenset({"visit", "body"}),
    "answer": frozenset({"answer"}),
}
"""The values that an expression sees."""

_ANSWER_FIELDS = frozenset({"status", "headers", "body"})
_PUNCTUATION = frozenset("(){}],:")
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


def visit_values(
    visit: model.Visit,
    received_at: int,
    listener: model.ListenerName,
    *,
    late: bool,
    visit_id: str = "",
    is_repeat: bool = False,
) -> dict[str, object]:
    """Return the value of ``visit`` in an expression. Times (microseconds) become RFC 3339 text, ``""`` if absent.

    ``visit_id`` and ``is_repeat`` are for transforms: a filter decides before the store knows them.
    """
    return msgspec.structs.asdict(visit) | {
        "receivedAt": model.format_time(received_at),
        "occurredAt": "" if visit.occurredAt is None else model.format_time(visit.occurredAt),
        "late": late,
        "tenant": listener.tenant,
        "listener": listener.listener,
        "id": visit_id,
        "repeat": is_repeat,
    }


class Evaluation(msgspec.Struct, frozen=True):
    """The result of an evaluation: a value or an error code, and the CPU time."""

    value: Any = None
    error_code: str = ""
    """One word that contains nothing of the data (see ``_code_of``); ``""`` if there is a value."""
    cpu_seconds: float = 0.0
    """CPU time of the calling thread."""


class _Token(msgspec.Struct, frozen=True):
    kind: str
    text: str
    at: int
    depth: int


class Program:
    """A checked expression, ready to be evaluated. An invalid one always evaluates to ``ExpressionInvalid``."""

    def __init__(self, source: str, where: Where) -> None:
        self.source = source
        self.where = where
        self.problems, self._program = _compile(source, where)
        tokens = [] if self._program is None else _tokens(source)
        names = [token.text for token in _variables(tokens)]
        self._parts = {root: _parts(tokens, root) for root in _ROOTS[where] if root in names}
        self._has_macro = any(True for _ in _macros(tokens))
        self._most_literal_items = 1 + sum(token.text == "," for token in tokens)
        patterns = [_literal_value(literal) for _, literal in _match_calls(tokens)]
        self._match_work: int = _STATE_WORK * sum(_compile_pattern(pattern).programsize for pattern in patterns)
        self._functions = {_MATCHES: _matches} if patterns else {}
        self._own_functions = expression_functions.FUNCTIONS.keys() & {token.text for token in tokens}
        self._key_orders = expression_order.orders_of(_map_literals(tokens)) if where == "transform" else {}
        self._copies = 1 + sum(token.text == "+" for token in tokens) // 2
        self._factor = len(names) * self._copies

    def evaluate(self, visit: Mapping[str, object], body: object = None) -> Evaluation:
        """Evaluate with a visit and, if the expression mentions it, the body as parsed JSON. Never raises."""
        return self._evaluated({"visit": visit, "body": body})

    def evaluate_answer(self, answer: Mapping[str, object]) -> Evaluation:
        """Evaluate with the ``status``, ``headers`` and ``body`` of an answer. Never raises."""
        return self._evaluated({"answer": answer})

    @property
    def reads_answer_body(self) -> bool:
        """True if it needs the body of an answer."""
        parts = self._parts.get("answer", {})
        return parts is None or "body" in parts

    def _evaluated(self, given: Mapping[str, object]) -> Evaluation:
        if self._program is None:
            return Evaluation(error_code="ExpressionInvalid")
        started = time.thread_time_ns()
        value, code = self._evaluate(given)
        return Evaluation(value, code, (time.thread_time_ns() - started) / 1e9)

    def _evaluate(self, given: Mapping[str, object]) -> tuple[Any, str]:
        calls: expression_functions.FunctionCalls | None = None
        try:
            copier = _WeighingCopier()
            values = {root: copier.part(given[root], parts) for root, parts in self._parts.items()}
            values.update(self._functions)
            work = self._work(copier)
            if work > MAX_WORK:
                return None, "TooExpensive"
            if self._own_functions:
                copies = self._copies * (self._longest(copier) if self._has_macro else 1)
                calls = expression_functions.FunctionCalls(MAX_WORK - work, copies)
                values.update(calls.bound(self._own_functions))
            value = self._program.execute(values)
        except Exception as error:  # noqa: BLE001 - every error of the core becomes a code
            return None, (calls and calls.error_code) or _code_of(error)
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # a panic of the native core
                raise
            return None, "Panic"
        if self.where in {"when", "answer"} and not isinstance(value, bool):
            return None, "NotBoolean"
        if self.where == "variable" and (isinstance(value, bool) or not isinstance(value, str | int)):
            return None, "NotTextOrInteger"
        if self.where == "transform":
            value = expression_order.in_order(value, self._key_orders, given["body"])
        return value, ""

    def _work(self, copier: "_WeighingCopier") -> int:
        """Return an upper estimate of the work.

        Each name may be the whole value, and a macro copies its growing result once per item.
        """
        weight, repeats = copier.weight, _PLAIN_WORK
        if self._has_macro:
            longest = self._longest(copier)
            weight, repeats = copier.heaviest, longest * longest // 2
        return (max(weight, 1) * max(repeats, 1) + copier.characters * self._match_work) * self._factor

    def _longest(self, copier: "_WeighingCopier") -> int:
        """Return the length of the longest list over which a macro may run."""
        split = expression_functions.MAX_SPLIT if "split" in self._own_functions else 0
        return max(copier.longest, self._most_literal_items, split)


class _ProgramCache:
    """The programs that were used last, as many as fit into a number of characters."""

    def __init__(self, max_characters: int) -> None:
        self._max_characters = max_characters
        self._programs: collections.OrderedDict[Source, Program] = collections.OrderedDict()
        self._characters = 0
        self._lock = threading.Lock()

    def __contains__(self, key: Source) -> bool:
        return key in self._programs

    def get(self, source: str, where: Where) -> Program:
        """Return the program of an expression; parse the expression if it is not in the cache."""
        key = source, where
        with self._lock:
            program = self._programs.get(key)
            if program is not None:
                self._programs.move_to_end(key)
                return program
        # Parse without the lock, because a parse is slow. Two threads may parse the same text; the first program stays.
        program = Program(source, where)
        with self._lock:
            self._add(key, program)
        return program

    def _add(self, key: Source, program: Program) -> None:
        if key in self._programs:
            return  # another thread was faster
        self._programs[key] = program
        self._characters += _weight(key)
        while self._characters > self._max_characters:
            dropped, _ = self._programs.popitem(last=False)
            self._characters -= _weight(dropped)


def _weight(key: Source) -> int:
    return _PROGRAM_CHARACTERS + min(len(key[0]), MAX_LENGTH[key[1]])


_cache = _ProgramCache(MAX_CACHED_CHARACTERS)
_problems: dict[Source, tuple[str, ...]] = {}
"""Problems of the expressions that were checked."""


def compile_expression(source: str, where: Where) -> Program:
    """Return the program of an expression from a cache, so that each text is parsed once."""
    return _cache.get(source, where)


def is_compiled(source: str, where: Where) -> bool:
    """Return whether `compile_expression` would return at once."""
    return (source, where) in _cache


def check_expression(source: str, where: Where) -> list[str]:
    """Return every problem of an expression, each with a way to correct it. Keeps no program in memory."""
    key = source, where
    problems = _problems.get(key)
    if problems is None:
        problems = _cache.get(*key).problems if key in _cache else Program(*key).problems
        if len(_problems) >= MAX_CHECKED:
            _problems.clear()
        _problems[key] = problems
    return list(problems)


def is_checked(source: str, where: Where) -> bool:
    """Return whether `check_expression` would return at once."""
    return (source, where) in _problems


def _compile(source: str, where: Where) -> tuple[tuple[str, ...], Any]:
    if len(source) > MAX_LENGTH[where]:
        return (f"must have at most {MAX_LENGTH[where]} characters, has {len(source)}",), None
    tokens = _tokens(source)
    problems = list(_static_problems(tokens, where))
    if any(token.depth > MAX_DEPTH for token in tokens) or _operators(tokens) > MAX_OPERATORS:
        return tuple(problems), None
    try:
        program = cel.compile(source)  # before the replacement, because its errors name columns
        if any(True for _ in _match_calls(tokens)):
            program = cel.compile(_with_own_matches(source, tokens))
    except Exception as error:  # noqa: BLE001 - every error of the parser becomes a problem
        return (_parse_problem(str(error)), *problems), None
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        return ("cannot be parsed; write it in a simpler way", *problems), None
    problems.extend(_name_problems(tokens, where))
    problems = problems or list(_pattern_problems(tokens))
    return tuple(problems), None if problems else program


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
    if (count := _operators(tokens)) > MAX_OPERATORS:
        yield f"must have at most {MAX_OPERATORS} operators, dots and indexes, has {count}"
    macros = list(_macros(tokens))
    allowed = 0 if where == "when" else 1
    if len(macros) > allowed:
        name = tokens[macros[allowed]].text
        limit = "may not be used in `when`" if where == "when" else "may be used once only"
        yield f"`{name}` {limit} (column {tokens[macros[allowed]].at + 1}): it runs over lists, which costs too much"
    for index in macros:
        yield from _macro_problems(tokens, index)
    yield from _matches_problems(tokens)


def _map_literals(tokens: list[_Token]) -> Iterator[tuple[str, ...]]:
    """Yield the keys of each literal of a map, those that are literals of text, in their order."""
    open_brackets: list[list[str]] = []
    for previous, token, following in zip([None, *tokens], tokens, [*tokens[1:], None], strict=False):
        if token.text in {"(", "[", "{"}:
            open_brackets.append([])
        elif token.text in {")", "]", "}"} and open_brackets:
            keys = open_brackets.pop()
            if keys:
                yield tuple(keys)
        elif token.kind == "text" and previous and following and previous.text in {"{", ","} and following.text == ":":
            open_brackets[-1].append(_literal_value(token.text))


def _operators(tokens: list[_Token]) -> int:
    return sum(token.kind == "mark" and token.text not in _PUNCTUATION for token in tokens)


def _macros(tokens: list[_Token]) -> Iterator[int]:
    """Yield the index of each call of a comprehension macro."""
    for index, token in enumerate(tokens[:-1]):
        if token.kind == "word" and token.text in MACROS and tokens[index + 1].text == "(" and index > 0:
            yield index


def _macro_problems(tokens: list[_Token], index: int) -> Iterator[str]:
    depth = tokens[index + 1].depth
    for token in tokens[index + 2 :]:
        if token.text == ")" and token.depth == depth:
            return
        if token.kind == "word" and token.text in {"body", "answer", "matches"}:
            where = f"inside `{tokens[index].text}` (column {token.at + 1})"
            yield f"`{token.text}` may not be used {where}, because it would run once per item"


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
    """Return the number of characters between the quotes of a literal."""
    quoted = text.lstrip("bBrR")
    return len(quoted) - (6 if quoted[:3] in {'"""', "'''"} else 2)


def _match_calls(tokens: list[_Token]) -> Iterator[tuple[_Token, str]]:
    """Yield each call of ``matches`` and the literal of its pattern."""
    for token, bracket, literal in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if token.kind == "word" and token.text == "matches" and bracket.text == "(" and literal.kind == "text":
            yield token, literal.text


def _literal_value(literal: str) -> Any:
    return cel.compile(literal).execute({})


def _with_own_matches(source: str, tokens: list[_Token]) -> str:
    """Return an expression with the name of our own function in each call of ``matches``."""
    for token, _ in reversed(list(_match_calls(tokens))):
        source = source[: token.at] + _MATCHES + source[token.at + len(token.text) :]
    return source


def _pattern_problems(tokens: list[_Token]) -> Iterator[str]:
    """Yield a problem of the first pattern that has one; the others are not compiled."""
    for token, literal in _match_calls(tokens):
        pattern, column = _literal_value(literal), token.at + 1
        if not isinstance(pattern, str):
            yield f"the pattern of `matches` must be a text, not bytes (column {column})"
            return
        try:
            _compile_pattern(pattern)
        except re2.error as error:
            reason = error.args[0].decode(errors="replace")
            if "too large" in reason:
                yield (
                    f"the pattern of `matches` is too large (column {column}): repeat fewer times, or use [a-z] "
                    "instead of a class such as \\pL that has thousands of characters"
                )
            else:
                yield f"the pattern of `matches` is not valid (column {column}): {reason}; its syntax is RE2's"
            return


@functools.lru_cache(maxsize=MAX_PATTERNS)
def _compile_pattern(pattern: str) -> Any:
    """Compile a pattern within a limit of memory. Raises re2.error."""
    options = re2.Options()
    options.max_mem = MAX_PATTERN_MEMORY
    options.never_capture = True
    options.log_errors = False
    return re2.compile(pattern.encode(), options)


def _matches(text: object, pattern: str) -> bool:
    """Return whether a part of a text matches a pattern."""
    if not isinstance(text, str):
        raise TypeError("only a text can match a pattern")
    return _compile_pattern(pattern).search(text.encode()) is not None


logging.getLogger("cel").setLevel(logging.CRITICAL)
"""The core logs each error of a function that it calls. Usher counts these errors itself."""


def _variables(tokens: list[_Token]) -> Iterator[_Token]:
    """Yield the words that name a value, without members, functions, keywords and names of messages."""
    for index, token in enumerate(tokens):
        previous = tokens[index - 1].text if index else ""
        following = tokens[index + 1].text if index + 1 < len(tokens) else ""
        if token.kind == "word" and token.text not in _KEYWORDS and previous != "." and following not in {"(", "{"}:
            yield token


_Parts = dict[str, "_Parts | None"]
"""The members that an expression reads, nested. None means the whole value."""


def _parts(tokens: list[_Token], root: str) -> _Parts | None:
    """Return the members of a root that an expression reads.

    Only these are converted for the core, because a conversion costs more than most expressions.
    """
    parts: _Parts = {}
    variables = {token.at for token in _variables(tokens)}
    for index, token in enumerate(tokens):
        if token.text == root and token.at in variables:
            chain = _chain(tokens[index + 1 :])
            if not chain:
                return None
            _add(parts, chain)
    return parts


def _chain(tokens: list[_Token]) -> list[str]:
    """Return the members after a name: ``.a.b`` gives a and b. A method does not count."""
    chain = []
    for dot, member, after in itertools.zip_longest(tokens[::2], tokens[1::2], tokens[2::2]):
        called = after is not None and after.text == "("
        if dot is None or member is None or dot.text != "." or member.kind != "word" or called:
            break
        chain.append(member.text)
    return chain


def _add(parts: _Parts, chain: list[str]) -> None:
    """Add one chain of members. A value that is already read as a whole stays so."""
    for name in chain[:-1]:
        inner = parts.setdefault(name, {})
        if inner is None:
            return
        parts = inner
    parts[chain[-1]] = None


def _name_problems(tokens: list[_Token], where: Where) -> Iterator[str]:
    """Yield a problem for each undefined name, so that it is found before the first visit."""
    fields = VISIT_FIELDS if where == "when" else DELIVERY_FIELDS
    bound = {tokens[index + 2].text for index in _macros(tokens) if index + 2 < len(tokens)}
    roots = _ROOTS[where]
    defined = bound | roots
    for name in sorted(bound & roots):
        yield f"`{name}` may not be the name of a loop's item: choose another name"
    for token in _variables(tokens):
        if token.text not in defined:
            hint = _hint(token.text, defined, "use " + " or ".join(f"`{root}`" for root in sorted(roots)))
            yield f"`{token.text}` is not defined (column {token.at + 1}){hint}"
    for token, after in itertools.pairwise(tokens):
        called = token.kind == "word" and token.text not in _KEYWORDS and after.text in {"(", "{"}
        if called and (after.text == "{" or token.text not in FUNCTIONS | MACROS):
            yield f"no function `{token.text}` exists (column {token.at + 1}){_hint(token.text, FUNCTIONS)}"
    for first, dot, member in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if first.text == "visit" and first.kind == "word" and dot.text == "." and member.text not in fields:
            hint = _hint(member.text, fields, "what Purple sent is in `body`")
            yield f"`visit` has no `{member.text}` (column {member.at + 1}){hint}"
        if first.text == "answer" and first.kind == "word" and dot.text == "." and member.text not in _ANSWER_FIELDS:
            hint = _hint(member.text, _ANSWER_FIELDS, "it has `status`, `headers` and `body`")
            yield f"`answer` has no `{member.text}` (column {member.at + 1}){hint}"


def _hint(word: str, names: Iterable[str], otherwise: str = "") -> str:
    close = difflib.get_close_matches(word, sorted(names), n=1, cutoff=0.6)
    hint = f"did you mean `{close[0]}`?" if close else otherwise
    return f": {hint}" if hint else ""


_UNEXPECTED = re.compile(
    r"(?:mismatched input|extraneous input|no viable alternative at input) (?P<what>.+?)(?: expecting (?P<instead>.+))?"
)
"""The parser's messages about an unexpected token."""


def _parse_problem(text: str) -> str:
    """Return the parser's first message that has a position, without its list of all possible tokens."""
    match = re.search(r"<input>:(\d+):(\d+): Syntax error: ([^\n]*)", text) or re.search(
        r"<input>:(\d+):(\d+): ([^\n]*)", text
    )
    if match is None:
        return "cannot be parsed"
    line, column, what = match.groups()
    unexpected = _UNEXPECTED.fullmatch(re.sub(r" expecting \{.*", "", what))
    if unexpected is not None:
        there, instead = unexpected["what"], unexpected["instead"]
        what = f"found {there} where {instead} was expected" if instead else f"{there} was not expected here"
    what = re.sub("'?<EOF>'?", "the end", what)
    return f"cannot be parsed at line {line}, column {column}: {what}"


def _code_of(error: Exception) -> str:
    """Return a code for an error of the core. Its text is dropped, because it may quote the data."""
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


class _WeighingCopier:
    """Copies JSON values with their arrays cut, and adds up how expensive they are."""

    def __init__(self) -> None:
        self.weight = 0
        self.characters = 0
        """Characters of all texts together."""
        self.longest = 0
        """Length of the longest array or object, because macros run over both."""
        self.heaviest = 0
        """Weight of the heaviest value that one step of a macro may copy: an item, a key or a text."""

    def part(self, value: object, parts: _Parts | None) -> object:
        """Return a copy of the parts of a value that an expression reads."""
        if parts is None or not isinstance(value, Mapping):
            return self.cut(value)
        self.weight += _NODE_WORK
        return {name: self.part(value[name], inner) for name, inner in parts.items() if name in value}

    def cut(self, value: object) -> object:
        """Return a copy of a whole value, with its arrays cut."""
        self.weight += _NODE_WORK
        if isinstance(value, str):
            self._text(value)
            return value
        if isinstance(value, Mapping):
            self.longest = max(self.longest, len(value))
            return {self._key(key): self.cut(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            self.longest = max(self.longest, min(len(value), MAX_ITEMS))
            return [self._item(item) for item in value[:MAX_ITEMS]]
        return value

    def _text(self, text: str) -> str:
        self.weight += len(text)
        self.characters += len(text)
        self.heaviest = max(self.heaviest, _NODE_WORK + len(text))
        return text

    def _key(self, key: str) -> str:
        self.weight += _KEY_WORK
        return self._text(key)

    def _item(self, item: object) -> object:
        weight_before = self.weight
        result = self.cut(item)
        self.heaviest = max(self.heaviest, self.weight - weight_before)
        return result
