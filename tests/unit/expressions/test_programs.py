import subprocess
import sys

import cel
import hypothesis
import msgspec
import pytest
from hypothesis import strategies

from usher_gateway import expressions, model
from usher_gateway.expressions import programs, samples

VISIT = expressions.visit_values(
    model.Visit(userId="1", email="a@example.com", firstName="Ann", visitCount=1),
    1_767_261_600_000_000,
    model.ListenerName("agency", "acme", "lobby"),
    late=False,
    visit_id="019b79a1-2c00-7000-8000-000000000001",
)
BODY = {"user": {"id": 1, "venue": {"id": 3}}, "items": [{"price": index} for index in range(20)]}


def evaluate(source: str, where: expressions.Where = "transform", body: object = None) -> expressions.Evaluation:
    return expressions.compile_expression(source, where).evaluate(VISIT, BODY if body is None else body)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("visit.email != '' && visit.visitCount == 1", True),
        ("visit.email.endsWith('@example.com')", True),
        ("visit.email.matches('^b')", False),
        ("has(body.user.venue) && body.user.venue.id == 3", True),
        ("visit.late || timestamp(visit.receivedAt).getFullYear() == 2026", True),
        ("visit.occurredAt == ''", True),
        ("'map(' + '((((' == \"exists(\" // all(", False),
    ],
)
def test_filter_returns_true_or_false(source: str, value: bool) -> None:
    assert samples.check_expression(source, "when").problems == ()
    assert evaluate(source, "when").value is value


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("{'to': visit.email, 'n': visit.visitCount}", {"to": "a@example.com", "n": 1}),
        ("body.items.filter(i, i.price > 18)", [{"price": 19}]),
        ("body.items.map(i, {'p': i.price, 'who': visit.firstName}).size()", 20),
    ],
)
def test_transform_returns_a_document(source: str, value: object) -> None:
    assert samples.check_expression(source, "transform").problems == ()
    assert evaluate(source).value == value


@pytest.mark.parametrize(
    ("source", "sent"),
    [
        ("bytes('ab')", '"YWI="'),
        ("duration('90s')", '"PT90S"'),
        ("timestamp('2026-01-01T00:00:00Z')", '"2026-01-01T00:00:00Z"'),
        ("{1: true}", '{"1":true}'),
        ("[1.0 / 0.0, double('nan')]", "[null,null]"),
        ("type(visit.userId)", '"string"'),
    ],
)
def test_value_of_a_transform_has_the_documented_json_form(source: str, sent: str) -> None:
    assert msgspec.json.encode(evaluate(source).value).decode() == sent


def test_map_with_a_boolean_key_has_no_json_form() -> None:
    """It is the one value of an expression for which a delivery is held with FormatError."""
    with pytest.raises(TypeError):
        msgspec.json.encode(evaluate("{visit.late: 1}").value)
    warning = samples.check_expression("{visit.late: 1}", "transform").warning
    assert warning is not None
    assert warning.message.startswith("fails with NotJSON on every sample body;")


@pytest.mark.parametrize(
    ("source", "where", "part"),
    [
        ("a" * 1025, "when", "at most 1024 characters"),
        ("a" * 4097, "transform", "at most 4096 characters"),
        ("1" + "+1" * 501, "transform", "at most 500 operators"),
        ("visit.id", "when", "`visit` has no `id`"),
        ("(" * 25 + "1" + ")" * 25, "transform", "deeper than 24"),
        ("body.items.exists(i, true)", "when", "`exists` may not be used in `when`"),
        ("body.items . map (i, i)", "when", "`map` may not be used in `when`"),
        ("body.items.map(i, i).filter(j, true)", "transform", "`filter` may be used once only"),
        ("body.a.map(visit, visit.b)", "transform", "may not be the name"),
        ("body.items.map(i, body.items)", "transform", "`body` may not be used inside `map`"),
        ("body.items.map(i, 'a'.matches('b'))", "transform", "`matches` may not be used inside `map`"),
        ("visit.email.matches(visit.firstName)", "when", "one literal pattern"),
        ("visit.email.matches('a' + 'b')", "when", "one literal pattern"),
        (f"visit.email.matches('{'a' * 101}')", "when", "at most 100 characters"),
        (" || ".join(["visit.email.matches('a')"] * 5), "when", "used 5 times"),
        (r"visit.email.matches(r'\pL{200}\pN{90}')", "when", "is too large"),
        (
            "visit.email.matches('(')",
            "when",
            "the pattern of `matches` is not valid: missing ): (; its syntax is RE2's (column 13)",
        ),
        ("visit.email.matches(b'a')", "when", "must be a text, not bytes"),
        ("visit.email ==", "when", "line 1, column 15: the end was not expected here"),
        ("visit.late)", "when", "line 1, column 11: found ')' where the end was expected"),
        ("(visit.late", "when", "line 1, column 12: missing ')' at the end"),
        ("visit.emial == ''", "when", "did you mean `email`?"),
        ("vist.email == ''", "when", "did you mean `visit`?"),
        ("visit.email.startwith('a')", "when", "did you mean `startsWith`?"),
        ("optional.of(1)", "transform", "`optional` is not defined"),
        ("Point{x: 1}", "transform", "no function `Point`"),
        ("", "when", "cannot be parsed"),
    ],
)
def test_invalid_expression_is_refused_with_a_hint(source: str, where: expressions.Where, part: str) -> None:
    problems = samples.check_expression(source, where).problems
    assert any(part in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("source", "document"),
    [
        (
            """{'zeta': visit.email, 'alpha': {'b': 1, "c": true ? 'x' : 'y', 'a': [{'y': 1, 'x': 2}]}, 'm': 1}""",
            """{"alpha":{"a":[{"x":2,"y":1}],"b":1,"c":"x"},"m":1,"zeta":""}""",
        ),
        ("body", """{"a":[{"b":2,"z":1}],"user":{"e":{},"id":7,"name":"Sam"}}"""),
        ("{body.user.name: 1, 'b': 2, 'a': 3}", """{"Sam":1,"a":3,"b":2}"""),
        ("{2: 1, 10: 2}", """{"10":2,"2":1}"""),
    ],
)
def test_document_of_a_transform_has_sorted_keys(source: str, document: str) -> None:
    body = {"user": {"name": "Sam", "id": 7, "e": {}}, "a": [{"z": 1, "b": 2}]}
    for _ in range(5):  # the core's order changes with each evaluation
        value = expressions.compile_expression(source, "transform").evaluate(VISIT | {"email": ""}, body).value
        assert msgspec.json.encode(value).decode() == document


@pytest.mark.parametrize(
    ("source", "where", "code"),
    [
        ("visit.email", "when", "NotBoolean"),
        ("visit.late", "variable", "NotTextOrInteger"),
        ("null", "variable", "NotTextOrInteger"),
        ("1.5", "variable", "NotTextOrInteger"),
        ("[visit.email]", "variable", "NotTextOrInteger"),
        ("b'a'", "variable", "NotTextOrInteger"),
        ("body.nothing == 1", "when", "NoSuchField"),
        ("visit.email + 1 == ''", "when", "NoSuchOverload"),
        ("1 / 0 == 1", "when", "Arithmetic"),
        ("9223372036854775807 + 1 == 0", "when", "Arithmetic"),
        ("int(visit.email) == 1", "when", "EvaluationFailed"),
        ("visit.email ==", "when", "ExpressionInvalid"),
        ("a" * 100_000, "when", "ExpressionInvalid"),
    ],
)
def test_failed_evaluation_gives_a_code_without_data(source: str, where: expressions.Where, code: str) -> None:
    evaluation = evaluate(source, where)
    assert (evaluation.error_code, evaluation.value) == (code, None)


@pytest.mark.parametrize(
    "source",
    [
        "body.user.venue.id == 3 && body.user.id == 1",
        "has(body.user.venue.id) && !has(body.user.nothing) && !has(body.nothing)",
        "body.user.venue.id.nothing == 1",
        "body.nothing.id == 1",
        "body.user == {'id': 1, 'venue': {'id': 3}} && body.user.id == 1",
        "body.user.id == 1 && body.user == {'id': 1, 'venue': {'id': 3}}",
        "body.size() == 2 && size(body.user) == 2 && body.items.size() == 20",
        "body['user'].venue.id == 3",
        "body . user // comment\n . id == 1",
        "string(body.user.id).startsWith('1')",
        "'user' in body && 'id' in body.user",
        "visit == visit && visit.email.size() > 3",
        "body.items[3].price == 3",
    ],
)
def test_partial_conversion_gives_the_same_result(source: str) -> None:
    assert samples.check_expression(source, "when").problems == ()
    try:
        whole = cel.compile(source).execute({"visit": VISIT, "body": BODY})
    except (KeyError, TypeError):
        whole = None
    assert evaluate(source, "when").value is whole


@pytest.mark.parametrize("body", [2**70, "\ud800", {"a": ["\ud800"]}, float("nan"), [[]] * 3, "a\0b", None, True])
def test_random_bodies_never_raise(body: object) -> None:
    assert isinstance(evaluate("body == 1", "when", body), expressions.Evaluation)


def test_arrays_are_cut_at_1000_items() -> None:
    assert evaluate("body.size()", body=list(range(5000))).value == 1000


@pytest.mark.parametrize(
    "source",
    [
        "body.xs.map(x, [" + "x," * 200 + "x])",
        "body.text" + "+body.text" * 90,
        "body.xs" + "+body.xs" * 100,
        "body.xs.map(x, x)",
        "[" + "1," * 300 + "1].map(x, visit.firstName)",
        "body.keys.map(key, key)",
        "body.keys.map(key, visit.firstName)",
        "[" + "body.keys, " * 24 + "body.keys]",
        "body.text.matches('[ab]*a[ab]{900}x')",
        "body.text.matches('[ab]{99}[ab]{99}[ab]{99}[ab]{99}[ab]{99}x')",
        r"body.text.matches('a\x7b900\x7dx')",
    ],
)
def test_expensive_evaluation_is_refused_before_it_starts(source: str) -> None:
    body = {"xs": list(range(1000)), "text": "a" * 60_000, "keys": {f"key {number}": 1 for number in range(1900)}}
    visit = VISIT | {"firstName": "a" * 60_000}
    evaluation = expressions.compile_expression(source, "transform").evaluate(visit, body)
    assert evaluation.error_code == "TooExpensive"
    assert evaluation.cpu_seconds < 0.05


@pytest.mark.parametrize(
    ("source", "characters"),
    [
        ("body.text", 0),
        ("{'a': body.text}", 9),
        ("{'a': [body.text, 1, null, true]}", 41),
        ("{body.text: ''}", 8),
    ],
)
def test_value_of_a_transform_has_a_limit(source: str, characters: int) -> None:
    """``characters``: those that count beside the text."""
    longest = programs.MAX_RESULT_CHARACTERS - characters
    assert evaluate(source, body={"text": "x" * longest}).error_code == ""
    assert evaluate(source, body={"text": "x" * (longest + 1)}).error_code == "TooExpensive"


@pytest.mark.parametrize(
    "source",
    [
        r"visit.email.matches(r'^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}@')",
        r"visit.email.matches(r'^[^@]{1,64}@([a-z0-9-]{1,63}\.){1,8}[a-z]{2,24}$')",
        r"visit.mobile.matches(r'^\+?[0-9]{6,15}$') || visit.email.matches('^a')",
    ],
)
def test_usual_patterns_are_evaluated(source: str) -> None:
    assert evaluate(source, "when").error_code == ""


@pytest.mark.parametrize(
    ("source", "value"),
    [
        (r"visit.email.matches(r'^\w{1,64}@\w{1,255}$')", False),
        (r"visit.email.matches(r'^\w{1,64}@[\w.]{1,255}$')", True),
        ('visit.email.matches(\'^a\') && !visit.email.matches("""^b""")', True),
        (r"'Zo\u00eb'.matches('^\\pL+$')", True),
        ("has(body.user.matches) || 'matches(x)' == 'm'", False),
        (r"'a\nb'.matches('^b$') || 'a\nb'.matches('a.b')", False),
    ],
)
def test_patterns_match_as_re2_does(source: str, value: bool) -> None:
    assert samples.check_expression(source, "when").problems == ()
    assert evaluate(source, "when").value is value


def test_match_of_a_number_is_an_error_and_not_false() -> None:
    assert evaluate("visit.visitCount.matches('1') != true", "when").error_code == "EvaluationFailed"


def test_patterns_are_not_compiled_at_each_evaluation() -> None:
    source = r"visit.email.matches(r'^\w{1,64}@\w{1,255}$')"
    evaluate(source, "when")
    fastest = min(evaluate(source, "when").cpu_seconds for _ in range(20))
    assert fastest < 0.005  # the limit in design.md, above which an evaluation is slow


def test_evaluations_with_patterns_write_no_log(caplog: pytest.LogCaptureFixture) -> None:
    evaluate("visit.visitCount.matches('1')", "when")
    assert caplog.records == []


_PIECES = strategies.sampled_from(
    [
        *"()[]{}?:!-+.,'\"1\\\n\0éu😀",
        *["&&", "||", "visit", "body", "x", "has(", "size(", "'''", "//", "0x", "1e999"],
        *(".map(x, ", ".exists(x, ", " in "),
    ]
)


@hypothesis.given(strategies.lists(_PIECES, max_size=60).map("".join))
def test_no_text_raises(source: str) -> None:
    for where in ("when", "transform"):
        program = expressions.Program(source, where)
        assert isinstance(program.evaluate(VISIT, BODY), expressions.Evaluation)


_HOSTILE = """
import threading
from usher_gateway import expressions
from usher_gateway.expressions import samples, syntax
depth = syntax.MAX_DEPTH
pieces = ("!", "-", "(", "[", "{", "{1:", "a+", "a.", "a?a:", "a&&", "f(")
tails = ("+a", ".a", "[0]", "==a", " in a", "?a:a", ".f()")
pairs = (("(", ")"), ("[", "]"), ("{'a':", "}"), ("size(", ")"))
def sources(length):
    yield from (piece * (length // len(piece)) for piece in pieces)
    yield from ("a" + tail * ((length - 1) // len(tail)) for tail in tails)
    yield from ("a" + tail * syntax.MAX_OPERATORS for tail in tails)
    yield from (left * depth + "1" + right * depth for left, right in pairs)
def run():
    for where, length in syntax.MAX_LENGTH.items():
        for source in sources(length):
            expressions.Program(source, where).evaluate({"email": ""}, {})
threading.stack_size(1 << 20)
thread = threading.Thread(target=run)
thread.start()
thread.join()
print("alive")
"""


def test_long_and_deep_input_does_not_crash_a_1_mib_stack() -> None:
    done = subprocess.run([sys.executable, "-c", _HOSTILE], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr


def test_programs_in_memory_are_bounded_by_their_length() -> None:
    cache = programs._ProgramCache(max_characters=2 * 1024)
    first, *others = [f"visit.email == '{number:0500}'" for number in range(6)]
    assert cache.get(first, "when") is cache.get(first, "when")
    for source in others:
        cache.get(source, "when")
    assert (first, "when") not in cache
    assert (others[-1], "when") in cache


def test_program_that_is_in_use_is_not_compiled_again() -> None:
    cache = programs._ProgramCache(max_characters=0)
    program = cache.get("visit.late", "when")
    assert ("visit.late", "when") in cache
    assert cache.get("visit.late", "when") is program
    del program
    assert ("visit.late", "when") not in cache


@pytest.mark.parametrize(
    ("source", "missing_field"),
    [
        ("body.user.tier > 1", "body.user.tier"),
        ("body.user.tier.name == 'x' && body.user.tier.name != 'y'", "body.user.tier"),
        ("body.user.tier > 1 || body.tier > 1", "tier"),
        ("body.user['loyalty tier'] > 1", "loyalty tier"),
        ("body.user[body.key] > 1", ""),
        ("body.key > 1", ""),
    ],
)
def test_missing_field_is_named_only_if_the_expression_contains_its_name(source: str, missing_field: str) -> None:
    program = expressions.Program(source, "when")
    evaluation = program.evaluate({}, {"user": {}, "key": "ada@example.com"})
    assert evaluation.missing_field == missing_field
