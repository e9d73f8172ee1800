"""Finds in an expression's tokens (CEL) what it reads and calls, and what is wrong before the parser sees it."""

import difflib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import cel
import msgspec

from usher_gateway import model
from usher_gateway.expressions import functions, patterns

# How an expression is used: `when` is a filter (true or false), `transform` makes a delivery's document, `variable`
# a part of its URL (a text or a whole number), and `answer` says whether a rule applies to a destination's answer (true
# or false).
Where = Literal["when", "transform", "variable", "answer"]

# Longest expression, in characters.
MAX_LENGTH: Mapping[Where, int] = {"when": 1024, "transform": 4096, "variable": 4096, "answer": 1024}

MAX_OPERATORS = 500  # Most operators, dots and indexes in an expression: a chain takes stack for each
MAX_DEPTH = 24  # Deepest nesting of brackets; the parser itself gives up at 96

# Longest pattern of `matches`, in characters. It must be a literal, because only a literal can be checked.
MAX_PATTERN_LENGTH = 100

MAX_MATCHES = 4  # Most uses of `matches`

# The members of `visit` in a filter.
VISIT_FIELDS = frozenset(model.Visit.__struct_fields__) | {"receivedAt", "occurredAt", "late", "tenant", "listener"}

# The members of `visit` in a transform: a filter decides before the store knows them all.
DELIVERY_FIELDS = VISIT_FIELDS | {"id", "repeat"}

# Comprehension macros. They evaluate their argument once per item.
MACROS = frozenset({"all", "exists", "exists_one", "existsOne", "map", "filter"})

# The functions that an expression may call.
FUNCTIONS = frozenset(
    {
        *functions.FUNCTIONS,
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

# The values that an expression sees.
ROOTS: Mapping[Where, frozenset[str]] = {
    "when": frozenset({"visit", "body"}),
    "transform": frozenset({"visit", "body"}),
    "variable": frozenset({"visit", "body"}),
    "answer": frozenset({"answer"}),
}

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


class Token(msgspec.Struct, frozen=True):
    """A token in an expression."""

    kind: str  # `text` (a literal), `word`, `number` or `mark`
    text: str
    at: int  # Its column, from 0
    depth: int  # The brackets that are open, its own included


def tokens_of(source: str) -> list[Token]:
    """Return an expression's tokens, without spaces and comments."""
    tokens, depth = [], 0
    for match in _TOKEN.finditer(source):
        kind, text = match.lastgroup or "mark", match.group()
        if kind == "space":
            continue
        if text in {"(", "[", "{"}:
            depth += 1
        tokens.append(Token(kind, text, match.start(), depth))
        if text in {")", "]", "}"}:
            depth -= 1
    return tokens


def path_to(tokens: list[Token], name: str) -> str:
    """Return the path that ends in a name, as in ``body.user.tier``; the name if there are several paths."""
    paths = set()
    for index, token in enumerate(tokens):
        if token.kind == "word" and token.text == name:
            first = index
            while first >= 2 and tokens[first - 1].text == "." and tokens[first - 2].kind == "word":
                first -= 2
            is_whole = not first or tokens[first - 1].text != "."
            paths.add("".join([part.text for part in tokens[first : index + 1]]) if is_whole else name)
    return paths.pop() if len(paths) == 1 else name


def static_problems(tokens: list[Token], where: Where) -> Iterator[str]:
    """Yield what exceeds the bounds."""
    if any(token.depth > MAX_DEPTH for token in tokens):
        yield f"must not nest brackets deeper than {MAX_DEPTH}"
    if (count := operators(tokens)) > MAX_OPERATORS:
        yield f"must have at most {MAX_OPERATORS} operators, dots and indexes, has {count}"
    macros = list(macro_calls(tokens))
    allowed = 0 if where == "when" else 1
    if len(macros) > allowed:
        name = tokens[macros[allowed]].text
        limit = "may not be used in `when`" if where == "when" else "may be used once only"
        yield f"`{name}` {limit} (column {tokens[macros[allowed]].at + 1}): it runs over lists, which costs too much"
    for index in macros:
        yield from _macro_problems(tokens, index)
    yield from _matches_problems(tokens)


def operators(tokens: list[Token]) -> int:
    """Count the operators, dots and indexes."""
    return sum(token.kind == "mark" and token.text not in _PUNCTUATION for token in tokens)


def macro_calls(tokens: list[Token]) -> Iterator[int]:
    """Yield the index at which each comprehension macro is called."""
    for index, token in enumerate(tokens[:-1]):
        if token.kind == "word" and token.text in MACROS and tokens[index + 1].text == "(" and index > 0:
            yield index


def _macro_problems(tokens: list[Token], index: int) -> Iterator[str]:
    depth = tokens[index + 1].depth
    for token in tokens[index + 2 :]:
        if token.text == ")" and token.depth == depth:
            return
        if token.kind == "word" and token.text in {"body", "answer", "matches"}:
            where = f"inside `{tokens[index].text}` (column {token.at + 1})"
            yield f"`{token.text}` may not be used {where}, because it would run once per item"


def _matches_problems(tokens: list[Token]) -> Iterator[str]:
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
    """Return the number of characters between a literal's quotes."""
    quoted = text.lstrip("bBrR")
    return len(quoted) - (6 if quoted[:3] in {'"""', "'''"} else 2)


def match_calls(tokens: list[Token]) -> Iterator[tuple[Token, str]]:
    """Yield each call to ``matches`` and the literal that is its pattern."""
    for token, bracket, literal in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if token.kind == "word" and token.text == "matches" and bracket.text == "(" and literal.kind == "text":
            yield token, literal.text


def literal_value(literal: str) -> Any:
    """Return a literal's value."""
    return cel.compile(literal).execute({})


def pattern_problems(tokens: list[Token]) -> Iterator[str]:
    """Yield the problem of the first pattern that has one; the others are not compiled."""
    for token, literal in match_calls(tokens):
        problem = patterns.problem_of(literal_value(literal))
        if problem is not None:
            yield f"the pattern of `matches` {problem} (column {token.at + 1})"
            return


def name_problems(tokens: list[Token], where: Where) -> Iterator[str]:
    """Yield a problem for each undefined name, so that it is found before the first visit."""
    fields = VISIT_FIELDS if where == "when" else DELIVERY_FIELDS
    bound = {tokens[index + 2].text for index in macro_calls(tokens) if index + 2 < len(tokens)}
    roots = ROOTS[where]
    defined = bound | roots
    for name in sorted(bound & roots):
        yield f"`{name}` may not be the name of a loop's item: choose another name"
    for token in variables_of(tokens):
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


def variables_of(tokens: list[Token]) -> Iterator[Token]:
    """Yield the words that name a value, without members, functions, keywords and message names."""
    for index, token in enumerate(tokens):
        previous = tokens[index - 1].text if index else ""
        following = tokens[index + 1].text if index + 1 < len(tokens) else ""
        if token.kind == "word" and token.text not in _KEYWORDS and previous != "." and following not in {"(", "{"}:
            yield token


Members = dict[str, "Members | None"]  # The members that an expression reads, nested. None means the whole value.


def members_read(tokens: list[Token], root: str) -> Members | None:
    """Return a root's members that an expression reads.

    Only these are converted for the core, because a conversion costs more than most expressions.
    """
    parts: Members = {}
    variables = {token.at for token in variables_of(tokens)}
    for index, token in enumerate(tokens):
        if token.text == root and token.at in variables:
            chain = _chain(tokens[index + 1 :])
            if not chain:
                return None
            _add(parts, chain)
    return parts


def _chain(tokens: list[Token]) -> list[str]:
    """Return the members after a name: ``.a.b`` gives a and b. A method does not count."""
    chain = []
    for dot, member, after in itertools.zip_longest(tokens[::2], tokens[1::2], tokens[2::2]):
        called = after is not None and after.text == "("
        if dot is None or member is None or dot.text != "." or member.kind != "word" or called:
            break
        chain.append(member.text)
    return chain


def _add(parts: Members, chain: list[str]) -> None:
    """Add one member chain. A value that is already read as a whole stays so."""
    for name in chain[:-1]:
        inner = parts.setdefault(name, {})
        if inner is None:
            return
        parts = inner
    parts[chain[-1]] = None
