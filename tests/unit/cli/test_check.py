import json
import pathlib
from dataclasses import dataclass
from typing import Any

import pytest
from typer.testing import CliRunner

from support import certificates
from usher_gateway import recipes
from usher_gateway.cli import main
from usher_gateway.expressions import samples
from usher_gateway.resources import types

COMMANDS = main.build()

TENANT = """\
apiVersion: usher.dev/v1alpha1
kind: Tenant
metadata: {name: acme}
spec: {displayName: Acme}
---
"""
DESTINATION = """\
apiVersion: usher.dev/v1alpha1
kind: Destination
metadata: {name: crm}
spec: {type: HTTP, http: {url: "https://crm.example"}}
---
"""
LISTENER = """\
apiVersion: usher.dev/v1alpha1
kind: Listener
metadata: {name: lobby}
spec:
  tenantRef: {name: acme}
  routes:
  - name: crm
    destinationRef: {name: crm}
    when: visit.email != ''
---
"""


@dataclass(frozen=True)
class Finished:
    code: int
    text: str
    problems: list[dict[str, Any]]
    """With ``--output json``."""


def check(*arguments: object, piped: str = "") -> Finished:
    result = CliRunner().invoke(
        COMMANDS, ["check", *map(str, arguments)], input=piped, env={"NO_COLOR": "1", "COLUMNS": "120"}
    )
    problems = json.loads(result.stdout)["problems"] if "json" in arguments else []
    return Finished(result.exit_code, result.stdout, problems)


def check_when(when: str, *arguments: str) -> Finished:
    return check("-", *arguments, piped=TENANT + DESTINATION + LISTENER.replace("visit.email != ''", when))


# Expressions


def test_expensive_expression_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "measure", lambda *_: 0.0015)
    done = check_when("visit.email != ''")
    assert done.code == 0
    assert "warning: Listener default/lobby: spec.routes[0].when: takes 1.5 ms on a sample body" in done.text


@pytest.mark.parametrize(
    ("when", "fails"),
    [
        ("body.guest.name == 'x'", "NoSuchField (body.guest) on every sample body"),
        ("visit.email", "NotBoolean on every sample body"),
        ("visit.email + 1 == ''", "NoSuchOverload on every sample body"),
        ("body.user.venue.id == 3", "NoSuchField (body.user.venue) on a body with only a user"),
        ("visit.visitCount > 2", "NoSuchOverload on a body with only a user"),
    ],
)
def test_expression_that_fails_on_samples_is_a_warning(when: str, fails: str) -> None:
    done = check_when(when)
    assert done.code == 0
    assert f"warning: Listener default/lobby: spec.routes[0].when: fails with {fails};" in done.text


@pytest.mark.parametrize(
    ("route", "transform", "error"),
    [
        ("when: body.guest.age > 3", "", "Listener default/lobby: spec.routes[0].when: fails with NoSuchField"),
        ("transform: body.guest.age", "", "Listener default/lobby: spec.routes[0].transform: fails with NoSuchField"),
        ("repeats: Skip", "body.guest.age", "Destination default/crm: spec.transform: fails with NoSuchField"),
        ("transform: body.guest.name", "body.guest.age", ""),
        ("{when: body.guest.name == 'y', transform: body.guest.age}", "", ""),
    ],
    ids=["filter", "transform", "destination", "unused transform", "transform behind a filter"],
)
def test_expression_that_fails_on_a_given_body_is_an_error(
    tmp_path: pathlib.Path, route: str, transform: str, error: str
) -> None:
    body = tmp_path / "visit.json"
    body.write_text('{"user": {"id": 1}, "guest": {"name": "x"}}')
    fields = route.strip("{}").replace(", ", "\n    ")
    listener = LISTENER.replace("when: visit.email != ''", fields)
    destination = DESTINATION.replace("type: HTTP", f"type: HTTP, transform: {transform}") if transform else DESTINATION
    done = check("-", "--body", str(body), piped=TENANT + destination + listener)
    assert (done.code, "error: " in done.text) == (bool(error), bool(error)), done.text
    assert not error or f"error: {error} (body.guest.age) on this body; deliveries would be held" in done.text


def test_variable_of_a_url_must_be_a_text_or_a_whole_number() -> None:
    http = '{url: "https://crm.example/{part}", urlVariables: [{name: part, value: visit.late}]}'
    done = check("-", piped=TENANT + DESTINATION.replace('{url: "https://crm.example"}', http) + LISTENER)
    path = "spec.http.urlVariables[0].value"
    assert f"warning: Destination default/crm: {path}: fails with NotTextOrInteger on every sample body" in done.text
    assert "convert with string()" in done.text


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ("answer.status", "fails with NotBoolean on an answer with a document and on an answer with a text"),
        ("'full'", "attempts would end with RuleFailed"),
        ("answer.body.contains('full')", ""),
        ("answer.body.errors > 0", ""),
    ],
)
def test_rule_for_answers_must_be_true_or_false(rule: str, error: str) -> None:
    http = f'{{url: "https://crm.example", answers: [{{when: "{rule}", effect: Dead}}]}}'
    done = check("-", piped=TENANT + DESTINATION.replace('{url: "https://crm.example"}', http) + LISTENER)
    assert done.code == 0
    assert (
        not error or "warning: Destination default/crm: spec.http.answers[0].when: fails with NotBoolean" in done.text
    )
    assert error in done.text
    assert ("a rule must give true or false, as in `answer.body != ''`" in done.text) == bool(error)


@pytest.mark.parametrize(("days", "code", "words"), [(-0.5, 1, "ended on"), (1, 0, "no problems")])
def test_client_certificate_that_ended_is_an_error(days: float, code: int, words: str) -> None:
    certificate, key = (part.decode() for part in certificates.make("client", days=days))
    metadata = {"name": "client", "labels": {types.WATCH_LABEL: "true"}}
    secret: dict[str, Any] = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata}
    secret["stringData"] = {"tls.crt": certificate, "tls.key": key}
    tls = 'tls: {clientCertificateSecretRef: {name: client}}, url: "'
    manifests = [json.dumps(secret), TENANT, LISTENER, DESTINATION.replace('url: "', tls)]
    result = check("-", piped="\n---\n".join(manifests))
    assert (result.code, words in result.text) == (code, True)


def test_strict_makes_every_warning_an_error() -> None:
    done = check_when("visit.visitCount > 2", "--strict")
    assert (done.code, "error: Listener default/lobby: spec.routes[0].when" in done.text) == (1, True)
    assert "1 problem\n" in done.text
    told = check_when("visit.visitCount > 2", "--strict", "--output", "json").problems
    assert [problem["severity"] for problem in told if problem["path"] == "spec.routes[0].when"] == ["error"]


def test_strict_leaves_notices_alone() -> None:
    done = check_when("visit.email != ''", "--strict")
    assert (done.code, "notice: ListenerClass: there is no ListenerClass" in done.text) == (0, True), done.text


# References


def test_listener_without_its_tenant_shows_its_other_mistakes_too() -> None:
    listener = LISTENER.replace("acme", "acmee").replace("email", "emial").replace("{name: crm}", "{name: crn}")
    done = check("-", "--output", "json", piped=TENANT + DESTINATION + listener)
    assert sorted(problem["path"] for problem in done.problems if problem["severity"] == "error") == [
        "spec.routes[0].destinationRef.name",
        "spec.routes[0].when",
        "spec.tenantRef.name",
    ]


def test_reference_to_an_object_with_mistakes_is_not_a_second_problem() -> None:
    listener = LISTENER.replace("  routes:\n", "  silence: {afterSecond: 60}\n  routes:\n")
    done = check("-", piped=TENANT.replace("displayName", "displayname") + DESTINATION + listener)
    assert "must exist" not in done.text
    assert "2 problems\n" in done.text


# Rules with a name

WELCOME = """\
apiVersion: usher.dev/v1alpha1
kind: Listener
metadata: {name: %s}
spec:
  tenantRef: {name: acme}
  routes:
  - {name: mail, destinationRef: {name: crm}, oncePer: {per: [User], every: %s, name: welcome}}
---
"""


def test_rules_of_one_name_and_two_periods_are_an_error() -> None:
    two = WELCOME % ("lobby", "Day") + WELCOME % ("bar", "Week")
    done = check("-", piped=TENANT + DESTINATION + two)
    assert done.code == 1
    assert (
        "Listener default/bar: spec.routes[0].oncePer.every: Listener default/lobby has a rule `welcome`" in done.text
    )
    same = WELCOME % ("lobby", "Day") + WELCOME % ("bar", "Day")
    assert check("-", piped=TENANT + DESTINATION + same).code == 0
    another_tenant = TENANT.replace("acme", "zoo") + two.replace("acme", "zoo", 1)
    assert check("-", piped=TENANT + DESTINATION + another_tenant).code == 0


# Companies


def tenant(name: str, spec: str) -> str:
    return f"apiVersion: usher.dev/v1alpha1\nkind: Tenant\nmetadata: {{{name}}}\nspec: {{{spec}}}\n---\n"


def test_two_tenants_of_one_company_get_a_warning() -> None:
    acme, globex = tenant("name: acme", "companyID: '77'"), tenant("name: globex", "companyID: '77'")
    other = tenant("name: other", "companyID: '78'") + tenant("name: a", "state: Active") + tenant("name: b", "")
    done = check("-", piped=acme + other + globex)
    assert done.code == 0
    assert (
        "<stdin>:24: warning: Tenant default/globex: spec.companyID: Tenant acme has the same company (<stdin>:4)\n"
        in done.text
    )
    assert done.text.count("has the same company") == 1


def test_tenants_of_one_company_in_two_namespaces_are_no_problem() -> None:
    first, second = (tenant(f"name: acme, namespace: {namespace}", "companyID: '77'") for namespace in ("a", "b"))
    assert "company" not in check("-", piped=first + second).text


# Recipes


def test_placeholder_of_a_recipe_that_was_left_gets_a_warning_for_each_field() -> None:
    left = recipes.filled("mailchimp", "default", "acme") + "---\n" + recipes.filled("salesforce", "default", "acme")
    lines = left.splitlines()
    done = check("-", "--output", "json", piped=left + "---\n" + TENANT)
    warned = [problem for problem in done.problems if "replace-me" in problem["message"]]
    assert (done.code, {problem["severity"] for problem in warned}) == (0, {"warning"})
    assert [(problem["resource"], problem["path"]) for problem in warned] == [
        ("Secret default/acme-mailchimp", "stringData.audience"),
        ("Secret default/acme-mailchimp", "stringData.password"),
        ("Destination default/acme-salesforce", "spec.http.authentication.oauth2.clientCredentials.clientID"),
        ("Secret default/acme-salesforce", "stringData.secret"),
    ]
    assert all(problem["file"] == "<stdin>" and "replace-me" in lines[problem["line"] - 1] for problem in warned)
    assert "-us1" not in done.text, "a value of a Secret is not printed"
    assert check("-", "--strict", piped=left + "---\n" + TENANT).code == 1
    filled_in = left.replace("replace-me", "0123456789abcdef")
    assert "replace-me" not in check("-", piped=filled_in + "---\n" + TENANT).text


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_is_recognised_while_nobody_has_filled_it_in(name: str) -> None:
    assert "the placeholder of a recipe" in check("-", piped=recipes.filled(name, "default", "acme")).text


# Bodies

VISIT = {"user": {"id": 4711, "email": "sam@example.test", "venue": {"id": 99}, "loginDatetime": "2026-01-01 10:00:00"}}


@pytest.fixture
def visit(tmp_path: pathlib.Path) -> pathlib.Path:
    file = tmp_path / "visit.json"
    file.write_text(json.dumps(VISIT))
    return file


def test_body_is_explained_without_manifests(visit: pathlib.Path) -> None:
    done = check("--body", visit)
    assert done.code == 0
    assert f"{visit} is a visit for a listener without `fields`\n" in done.text
    assert "    email        /user/email          text of 16 characters\n" in done.text
    assert "    venue        /user/venue/id       number: 99\n" in done.text
    assert "the time is not trusted, because it has no offset" in done.text
    assert "set `fields.occurredAtZone`" in done.text
    assert "sam@" not in done.text
    assert "4711" not in done.text


def test_body_is_explained_for_each_way_of_reading_it(visit: pathlib.Path) -> None:
    zoned = LISTENER.replace("lobby", "zoned").replace("  routes:", "  fields: {occurredAtZone: UTC}\n  routes:")
    manifests = TENANT + DESTINATION + LISTENER + LISTENER.replace("lobby", "guests") + zoned
    done = check("-", "--body", visit, piped=manifests)
    assert f"{visit} is a visit for Listener default/lobby, Listener default/guests\n" in done.text
    assert f"{visit} is a visit for Listener default/zoned\n" in done.text
    assert "the time is trusted: 2026-01-01T10:00:00.000Z\n" in done.text
    assert "3 listeners and 1 destination would run; no problems\n" in done.text
    told = json.loads(check("-", "--output", "json", "--body", visit, piped=manifests).text)["bodies"]
    assert [(body["listeners"], body["reading"]["time"]) for body in told] == [
        (["default/lobby", "default/guests"], "NoOffset"),
        (["default/zoned"], "Trusted"),
    ]


def test_body_that_would_be_quarantined_is_an_error() -> None:
    done = check("--body", "-", piped='{"person": 1}')
    assert (done.code, "<stdin> is quarantined (NoUser" in done.text) == (1, True), done.text
    done = check("--body", "-", piped="no json")
    assert (done.code, "<stdin> is quarantined (NotJSON" in done.text) == (1, True), done.text


def test_quarantined_body_has_a_hint_and_does_not_count_as_fresh() -> None:
    without_user = {"person": 1, "loginDatetime": "2026-01-01 10:00:00"}
    text = check("--body", "-", piped=json.dumps(without_user)).text
    assert "there is no user: set `fields.user` to the path of the user's id, if it is among the values above\n" in text
    assert "the time is not trusted, because it has no offset\n" in text
    assert "fresh" not in text
    assert "fields.user" not in check("--body", "-", piped=json.dumps(VISIT)).text


def test_body_needs_a_file_that_can_be_read(tmp_path: pathlib.Path) -> None:
    assert check("--body", tmp_path / "absent").code == 2
    assert check("-", "--body", "-", piped="{}").code == 2
    assert check().code == 2


def test_listener_whose_tenant_is_elsewhere_reads_the_body(tmp_path: pathlib.Path) -> None:
    visit = tmp_path / "visit.json"
    visit.write_text(json.dumps({"visitor": {"ref": 7}}))
    fields = "  fields: {user: /visitor/ref, occurredAtZone: Nowhere/Land}\n"
    listener = LISTENER.replace("  routes:", f"{fields}  routes:")
    assert "is a visit for a listener without" not in check("-", "--body", visit, piped=listener).text
    mended = listener.replace("Nowhere/Land", "UTC")
    assert f"{visit} is a visit for Listener default/lobby\n" in check("-", "--body", visit, piped=mended).text


def test_body_without_an_id_of_dedupe_gets_a_warning() -> None:
    without_venue = {"user": {"id": 7}}
    text = check("--body", "-", piped=json.dumps(without_venue)).text
    assert "the body has no venue, and `dedupe.per` names it: only an identical body is a repeat" in text
    with_venue = {"user": {"id": 7, "venue": {"id": 9}}}
    assert "only an identical body" not in check("--body", "-", piped=json.dumps(with_venue)).text
