"""Expressions (CEL) that tenants write: compiled once, and evaluated within bounds.

The native core that evaluates them holds the interpreter's lock, has no cost limit, and crashes on long or deep input.
Measured with common-expression-language 0.10:

- A chain ``a+a+…`` or ``a.b.c…`` crashes a thread with an 8 MiB stack between 10,000 and 20,000 terms, one with 1 MiB
  between 1,000 and 2,000, and one with 512 KiB between 511 and 1,000.
- A macro copies its whole result at every step, so that ``xs.map(x, ys)`` over 1,000 items each takes 32 s.
- Its own ``matches`` compiles the pattern at every evaluation, up to 100 ms each.

So ``syntax.py`` checks bounds before the parser sees the text, this module estimates the work before every
evaluation, and RE2 evaluates ``matches`` (``patterns.py``).
Call this module from threads with at least 1 MiB of stack.
"""

import collections
import logging
import re
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any

import cel
import msgspec

from usher_gateway import model
from usher_gateway.expressions import functions, patterns, syntax

Where = syntax.Where

Source = tuple[str, Where]  # The text of an expression and its field


MAX_ITEMS = 1000  # Longest array of a body, in items; longer ones are cut
MAX_WORK = 50_000_000  # Most estimated work of one evaluation. A unit is about a nanosecond.

# Most characters in a transform's value, keys included. A value of another type counts as eight. Making a request
# from the value takes up to 0.2 us CPU time for a character.
MAX_RESULT_CHARACTERS = 256 * 1024
_PLAIN_CHARACTERS = 8

# Most characters of the expressions whose programs stay in memory although nothing else refers to them. A character
# takes up to 85 bytes.
MAX_CACHED_CHARACTERS = 2_000_000

_PROGRAM_CHARACTERS = 50  # A program takes as much memory as this many characters, besides those of its text

_NODE_WORK = 70
_KEY_WORK = 300  # more than a value's, because the core tries several types for each
_PLAIN_WORK = 4  # converting a value in and out costs this much more than copying it inside the core
_STATE_WORK = 10
# The function that replaces `matches` in the text for the core, because the core's own one cannot be replaced.
_MATCHES = "matchesWithRE2"


def visit_values(
    visit: model.Visit,
    received_at: int,
    listener: model.ListenerName,
    *,
    late: bool,
    visit_id: str = "",
    is_repeat: bool = False,
) -> dict[str, object]:
    """Return what ``visit`` is in an expression. Times (microseconds) become RFC 3339 text, ``""`` if absent.

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
    """An evaluation's result: a value or an error code, and the CPU time."""

    value: Any = None
    error_code: str = ""  # One word that contains nothing of the data (see `_code_of`); `""` if there is a value
    cpu_seconds: float = 0.0  # CPU time of the calling thread
    missing_field: str = ""
    """With ``NoSuchField``: the field's name if the expression's text contains it. A name from the data is dropped."""


class Program:
    """A checked expression, ready to be evaluated. An invalid one always evaluates to ``ExpressionInvalid``."""

    def __init__(self, source: str, where: Where) -> None:
        self.source = source
        self.where = where
        self.problems, self._program = _compile(source, where)
        tokens = [] if self._program is None else syntax.tokens_of(source)
        names = [token.text for token in syntax.variables_of(tokens)]
        self._parts = {root: syntax.members_read(tokens, root) for root in syntax.ROOTS[where] if root in names}
        self._has_macro = any(True for _ in syntax.macro_calls(tokens))
        self._most_literal_items = 1 + sum(token.text == "," for token in tokens)
        used_patterns = [syntax.literal_value(literal) for _, literal in syntax.match_calls(tokens)]
        self._match_work: int = _STATE_WORK * sum(map(patterns.program_size, used_patterns))
        self._functions = {_MATCHES: patterns.matches} if used_patterns else {}
        self._own_functions = functions.FUNCTIONS.keys() & {token.text for token in tokens}
        self._copies = 1 + sum(token.text == "+" for token in tokens) // 2
        self._factor = len(names) * self._copies
        self._paths: dict[str, str] | None = None
        """Each word in the expression -> its path (`syntax.path_to`); None: not needed yet."""
        """The text's words and literals, once a field was missing."""

    def evaluate(self, visit: Mapping[str, object], body: object = None) -> Evaluation:
        """Evaluate with a visit and, if the expression mentions it, the body as parsed JSON. Never raises."""
        return self._evaluated({"visit": visit, "body": body})

    def evaluate_answer(self, answer: Mapping[str, object]) -> Evaluation:
        """Evaluate with an answer's ``status``, ``headers`` and ``body``. Never raises."""
        return self._evaluated({"answer": answer})

    @property
    def reads_answer_body(self) -> bool:
        """True if it needs an answer's body."""
        parts = self._parts.get("answer", {})
        return parts is None or "body" in parts

    def _evaluated(self, inputs: Mapping[str, object]) -> Evaluation:
        if self._program is None:
            return Evaluation(error_code="ExpressionInvalid")
        started = time.thread_time_ns()
        value, code, missing_field = self._evaluate(inputs)
        return Evaluation(value, code, (time.thread_time_ns() - started) / 1e9, missing_field)

    def _evaluate(self, inputs: Mapping[str, object]) -> tuple[Any, str, str]:
        """Return a value, or an error code and the missing field."""
        calls: functions.FunctionCalls | None = None
        try:
            copier = _WeighingCopier()
            values = {root: copier.part(inputs[root], parts) for root, parts in self._parts.items()}
            values.update(self._functions)
            work = self._work(copier)
            if work > MAX_WORK:
                return None, "TooExpensive", ""
            if self._own_functions:
                copies = self._copies * (self._longest(copier) if self._has_macro else 1)
                calls = functions.FunctionCalls(MAX_WORK - work, copies)
                values.update(calls.bound(self._own_functions))
            value = self._program.execute(values)
            if self.where == "transform":
                value = _SortingCopier().copy(value)
        except Exception as error:  # noqa: BLE001 - every error of the core becomes a code
            code = _code_of((calls and calls.error) or error)
            return None, code, self._missing_field(error) if code == "NoSuchField" else ""
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # a panic of the native core
                raise
            return None, "Panic", ""
        if self.where in {"when", "answer"} and not isinstance(value, bool):
            return None, "NotBoolean", ""
        if self.where == "variable" and (isinstance(value, bool) or not isinstance(value, str | int)):
            return None, "NotTextOrInteger", ""
        return value, "", ""

    def _missing_field(self, error: Exception) -> str:
        """Return the path to the name in the core's error if the expression has that word or literal, else ``""``."""
        name = str(error.args[0]) if error.args else ""
        if self._paths is None:
            tokens = syntax.tokens_of(self.source)
            names = {token.text.strip("\"'") for token in tokens}
            self._paths = {name: syntax.path_to(tokens, name) for name in names}
        return self._paths.get(name, "")

    def _work(self, copier: "_WeighingCopier") -> int:
        """Return an upper estimate for the work.

        Each name may be the whole value, and a macro copies its growing result once per item.
        """
        weight, repeats = copier.weight, _PLAIN_WORK
        if self._has_macro:
            longest = self._longest(copier)
            weight, repeats = copier.heaviest, longest * longest // 2
        return (max(weight, 1) * max(repeats, 1) + copier.characters * self._match_work) * self._factor

    def _longest(self, copier: "_WeighingCopier") -> int:
        """Return the length of the longest list over which a macro may run."""
        split = functions.MAX_SPLIT if "split" in self._own_functions else 0
        return max(copier.longest, self._most_literal_items, split)


class _ProgramCache:
    """The programs that others refer to, and those compiled or used last that fit into a number of characters.

    A listener in force refers to its filters. So editing another document does not compile them again.
    """

    def __init__(self, max_characters: int) -> None:
        self._max_characters = max_characters
        self._programs: collections.OrderedDict[Source, Program] = collections.OrderedDict()
        self._referred: weakref.WeakValueDictionary[Source, Program] = weakref.WeakValueDictionary()
        self._characters = 0
        self._lock = threading.Lock()

    def __contains__(self, key: Source) -> bool:
        return key in self._referred

    def get(self, source: str, where: Where) -> Program:
        """Return an expression's program; parse the expression if it is not in the cache."""
        key = source, where
        with self._lock:
            program = self._referred.get(key)
            if program is not None:
                if key in self._programs:
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
        self._programs[key] = self._referred[key] = program
        self._characters += _weight(key)
        while self._characters > self._max_characters:
            dropped, _ = self._programs.popitem(last=False)
            self._characters -= _weight(dropped)


def _weight(key: Source) -> int:
    return _PROGRAM_CHARACTERS + min(len(key[0]), syntax.MAX_LENGTH[key[1]])


_cache = _ProgramCache(MAX_CACHED_CHARACTERS)


def compile_expression(source: str, where: Where) -> Program:
    """Return an expression's program from a cache, so that each text is parsed once."""
    return _cache.get(source, where)


def is_compiled(source: str, where: Where) -> bool:
    """Return whether `compile_expression` would return at once."""
    return (source, where) in _cache


def _compile(source: str, where: Where) -> tuple[tuple[str, ...], Any]:
    if len(source) > syntax.MAX_LENGTH[where]:
        return (f"must have at most {syntax.MAX_LENGTH[where]} characters, has {len(source)}",), None
    tokens = syntax.tokens_of(source)
    problems = list(syntax.static_problems(tokens, where))
    if any(token.depth > syntax.MAX_DEPTH for token in tokens) or syntax.operators(tokens) > syntax.MAX_OPERATORS:
        return tuple(problems), None
    try:
        program = cel.compile(source)  # before the replacement, because its errors name columns
        if any(True for _ in syntax.match_calls(tokens)):
            program = cel.compile(_with_own_matches(source, tokens))
    except Exception as error:  # noqa: BLE001 - every error of the parser becomes a problem
        return (_parse_problem(str(error)), *problems), None
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        return ("cannot be parsed; write it in a simpler way", *problems), None
    problems.extend(syntax.name_problems(tokens, where))
    problems = problems or list(syntax.pattern_problems(tokens))
    return tuple(problems), None if problems else program


def _with_own_matches(source: str, tokens: list[syntax.Token]) -> str:
    """Return an expression with our own function's name in each call to ``matches``."""
    for token, _ in reversed(list(syntax.match_calls(tokens))):
        source = source[: token.at] + _MATCHES + source[token.at + len(token.text) :]
    return source


logging.getLogger("cel").setLevel(logging.CRITICAL)
"""The core logs each error of a function that it calls. Usher counts these errors itself."""


# The parser's messages about an unexpected token.
_UNEXPECTED = re.compile(
    r"(?:mismatched input|extraneous input|no viable alternative at input) (?P<what>.+?)(?: expecting (?P<instead>.+))?"
)


def _parse_problem(text: str) -> str:
    """Return the parser's first message that has a position, without its list of possible tokens."""
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


class _SortingCopier:
    """Copies a value with its maps' keys in alphabetical order, because the core gives them in any order."""

    def __init__(self) -> None:
        self._characters_left = MAX_RESULT_CHARACTERS

    def copy(self, value: Any) -> Any:
        """Return a copy of a value. Raises: TooExpensiveError."""
        self._characters_left -= len(value) if isinstance(value, str | bytes) else _PLAIN_CHARACTERS
        if self._characters_left < 0:
            raise functions.TooExpensiveError
        if isinstance(value, dict):
            self._characters_left -= sum([len(key) for key in value if isinstance(key, str)])
            return {key: self.copy(value[key]) for key in sorted(value, key=str)}
        return [self.copy(item) for item in value] if isinstance(value, list) else value


def _code_of(error: Exception) -> str:
    """Return a code for a core error. Its text is dropped, because it may quote the data."""
    match error:
        case functions.TooExpensiveError():
            return "TooExpensive"
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
        self.characters = 0  # Characters of all texts together
        self.longest = 0  # Length of the longest array or object, because macros run over both
        self.heaviest = 0  # Weight of the heaviest value that one macro step may copy: an item, a key or a text

    def part(self, value: object, parts: syntax.Members | None) -> object:
        """Copy the parts of a value that an expression reads."""
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
