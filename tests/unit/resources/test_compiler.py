import base64
import itertools
import json

import pytest

from support import certificates
from usher_gateway import documents, model
from usher_gateway.resources import compiler
from usher_gateway.resources.manifests import load_manifests

KEYS = model.derive_keys(bytes(range(32)))
CLASS = """
apiVersion: usher.dev/v1alpha1
kind: ListenerClass
metadata: {name: public}
spec:
  controllerName: usher.dev/usher
  hostname: hooks.example.com
  allowedHostnames: [{hostname: "*.example.org"}]
"""
TENANT = """
apiVersion: usher.dev/v1alpha1
kind: Tenant
metadata: {name: acme}
"""
DESTINATION = """
apiVersion: usher.dev/v1alpha1
kind: Destination
metadata: {name: crm}
spec:
  type: HTTP
  http:
    url: https://crm.example/
"""
LISTENER = """
apiVersion: usher.dev/v1alpha1
kind: Listener
metadata: {name: lobby}
spec:
  tenantRef: {name: acme}
"""
SECRET = """
apiVersion: v1
kind: Secret
metadata: {name: s, labels: {usher.dev/watch: "true"}}
stringData: {username: purple, password: pw, token: tok, second: whsec_c2Vjb25k}
"""
ROUTE = "  routes: [{name: crm, destinationRef: {name: crm}}]\n"


def compiled(*texts: str, **options: object) -> compiler.CompiledResources:
    manifests = load_manifests("---\n".join(texts).encode(), "a.yaml")
    assert manifests.problems == ()
    given = compiler.collect((loaded.resource for loaded in manifests.objects), manifests.namespaces)
    return compiler.compile_resources(given, compiler.CompileContext(**{"keys": KEYS, "now": 0, **options}))  # type: ignore[arg-type]


def reasons(result: compiler.CompiledResources) -> list[str]:
    return [str(finding.reason) for finding in result.findings]


def test_minimal_manifests_get_every_default() -> None:
    result = compiled(CLASS, TENANT, DESTINATION, LISTENER + ROUTE)
    listener = result.snapshot.listeners["default/lobby"]
    expected = documents.ListenerDocument(
        "default",
        "lobby",
        documents.TenantDocument("acme"),
        listener.addresses,
        routes=(documents.Route("crm", "default/crm"),),
    )
    assert listener == expected
    destination = documents.DestinationDocument("default", "crm", "https://crm.example/")
    assert result.snapshot.destinations == {"default/crm": destination}
    assert result.findings == ()


def test_order_of_the_ids_of_a_once_per_rule_does_not_matter() -> None:
    """Otherwise two rules of one name share nothing although they count the same visitors."""
    routes = [
        ROUTE.replace("}}]", f"}}, oncePer: {{per: {per}, every: Day}}}}]")
        for per in ("[User, Venue]", "[Venue, User]")
    ]
    documents_made = [compiled(CLASS, TENANT, DESTINATION, LISTENER + route).snapshot.listeners for route in routes]
    assert documents_made[0] == documents_made[1]


def test_token_address_is_derived_from_the_install_key() -> None:
    result = compiled(CLASS, TENANT, LISTENER)
    token = model.url_token(KEYS.install, "default", "acme", "lobby", 0)
    assert result.snapshot.listeners["default/lobby"].addresses == (
        documents.Address("hooks.example.com", f"/v1/{token}", is_class_address=True),
    )


def test_rotation_keeps_old_tokens_with_their_action_and_limit() -> None:
    old = "{generation: 1, untilTime: 1970-01-01T01:00:01+01:00, action: Hold}"
    token = f"  token: {{generation: 2, alsoAccept: [{old}, {{generation: 2}}]}}\n"
    addresses = compiled(CLASS, TENANT, LISTENER + token).snapshot.listeners["default/lobby"].addresses
    paths = [f"/v1/{model.url_token(KEYS.install, 'default', 'acme', 'lobby', number)}" for number in (2, 1)]
    assert [(address.path, address.action, address.until) for address in addresses] == [
        (paths[0], "Accept", 0),
        (paths[1], "Hold", 1_000_000),
    ]


def test_token_that_ended_at_the_epoch_is_not_one_without_an_end() -> None:
    token = '  token: {generation: 2, alsoAccept: [{generation: 1, untilTime: "1970-01-01T00:00:00Z"}]}\n'
    addresses = compiled(CLASS, TENANT, LISTENER + token).snapshot.listeners["default/lobby"].addresses
    assert [address.until > 0 for address in addresses] == [False, True]


def test_explicit_hostname_without_path_gets_the_token() -> None:
    result = compiled(CLASS, TENANT, LISTENER + "  addresses: [{name: a, hostname: a.b.example.org}]\n")
    (address,) = result.snapshot.listeners["default/lobby"].addresses
    assert (address.host, address.path[:4]) == ("a.b.example.org", "/v1/")


def test_class_is_refused_in_a_namespace_it_does_not_select() -> None:
    namespaces = "  namespaces: {from: Selector, selector: {matchLabels: {team: a}}}\n"
    refused = compiled(CLASS + namespaces, TENANT, LISTENER)
    assert (refused.snapshot.listeners, reasons(refused)) == ({}, ["ClassNotPermitted"])
    namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {team: a}}\n"
    assert compiled(CLASS + namespaces, namespace, TENANT, LISTENER).snapshot.listeners


NOW = 1_800_000_000 * model.MICROSECONDS
OLD_PATH = "  authentication: {type: None}\n  addresses: [{name: a, hostname: a.example.org, path: /x}]\n"


def edited(earlier_fields: str, *texts: str) -> list[documents.Address]:
    """Return the retired addresses of a listener after an edit."""
    previous = compiled(CLASS, TENANT, LISTENER + earlier_fields).snapshot
    now = compiled(CLASS, TENANT, *texts, previous=previous, now=NOW).snapshot
    return list(now.listeners["default/lobby"].retired_addresses)


def test_address_that_leaves_the_configuration_is_retired() -> None:
    (retired,) = edited(OLD_PATH, LISTENER)
    assert (retired.host, retired.path, retired.retired_at) == ("a.example.org", "/x", NOW)
    (retired,) = edited("", LISTENER + "  token: {generation: 1}\n")
    assert retired.path == f"/v1/{model.url_token(KEYS.install, 'default', 'acme', 'lobby', 0)}"


def test_explicit_end_is_not_retired() -> None:
    claimed = LISTENER.replace("{name: lobby}", "{name: second}") + OLD_PATH
    assert edited(OLD_PATH, LISTENER, claimed) == []
    old = '{generation: 0, untilTime: "2026-01-01T00:00:00Z"}'
    ended = LISTENER + f"  token: {{generation: 1, alsoAccept: [{old}]}}\n"
    assert edited("", ended) == []


def test_retired_address_that_returns_is_not_retired_any_more() -> None:
    previous = compiled(CLASS, TENANT, LISTENER + OLD_PATH).snapshot
    retired = compiled(CLASS, TENANT, LISTENER, previous=previous, now=NOW).snapshot
    again = compiled(CLASS, TENANT, LISTENER + OLD_PATH, previous=retired, now=NOW).snapshot
    assert [address.path for address in again.listeners["default/lobby"].live_addresses] == ["/x"]


def test_retired_address_ends_at_once_without_retired_address_days() -> None:
    previous = compiled(CLASS, TENANT, LISTENER + OLD_PATH).snapshot
    (address,) = previous.listeners["default/lobby"].addresses
    end_of_hour = {address.id: NOW + 1_800 * model.MICROSECONDS}
    at_once = CLASS + "  retiredAddressDays: 0\n"
    after = compiled(at_once, TENANT, LISTENER, previous=previous, now=NOW, arrivals=end_of_hour).snapshot
    assert after.listeners["default/lobby"].retired_addresses == ()


def test_of_very_many_retired_addresses_the_last_used_stay() -> None:
    """Otherwise a tenant that moves a path again and again fills the memory of every gateway."""
    moved = [OLD_PATH.replace("/x", f"/{number}") for number in range(260)]
    snapshot = compiled(CLASS, TENANT, LISTENER + moved[0]).snapshot
    (first,) = snapshot.listeners["default/lobby"].addresses
    for number, addresses in enumerate(moved[1:], start=1):
        now = NOW + number * model.MICROSECONDS
        snapshot = compiled(
            CLASS, TENANT, LISTENER + addresses, previous=snapshot, now=now, arrivals={first.id: now}
        ).snapshot
    retired = {address.path for address in snapshot.listeners["default/lobby"].retired_addresses}
    assert retired == {"/0", *(f"/{number}" for number in range(4, 259))}


OTHER = "  addresses: [{name: a, hostname: shop.example.org}]\n"


def two_tenants() -> list[str]:
    elsewhere = TENANT.replace("{name: acme}", "{name: other, namespace: elsewhere}", 1)
    second = LISTENER.replace("{name: lobby}", "{name: theirs, namespace: elsewhere}").replace("acme", "other")
    return [CLASS, TENANT, elsewhere, LISTENER + OTHER, second + OTHER]


def test_hostname_conflict_does_not_name_the_other_tenant() -> None:
    *others, first, second = two_tenants()
    for shuffled in itertools.permutations([*others, f"{first}---\n{second}---\n"]):
        result = compiled(*shuffled)
        assert list(result.snapshot.listeners) == ["default/lobby"]
        (refused,) = result.findings
        assert (refused.key, refused.reason) == ("elsewhere/theirs", "HostnameConflict")
        assert "default" not in refused.message
        assert "acme" not in refused.message


def test_class_hostname_is_reserved_even_if_a_pattern_matches() -> None:
    own = CLASS.replace("hooks.example.com", "hooks.example.org")
    result = compiled(own, TENANT, LISTENER + "  addresses: [{name: a, hostname: hooks.example.org}]\n")
    assert (result.snapshot.listeners, reasons(result)) == ({}, ["HostnameReserved"])


def test_former_class_hostname_is_reserved_until_its_retired_addresses_end() -> None:
    previous = compiled(CLASS.replace("hooks.example.com", "old.example.org"), TENANT, LISTENER, now=NOW).snapshot
    named = LISTENER.replace("lobby", "named") + "  addresses: [{name: a, hostname: old.example.org}]\n"
    after = compiled(CLASS, TENANT, LISTENER, named, previous=previous, now=NOW)
    assert reasons(after) == ["HostnameReserved"]
    assert [address.host for address in after.snapshot.listeners["default/lobby"].retired_addresses] == [
        "old.example.org"
    ]
    end = NOW + 7 * model.DAY
    ended = compiled(CLASS, TENANT, LISTENER, named, previous=after.snapshot, now=end)
    assert (reasons(ended), list(ended.snapshot.listeners)) == ([], ["default/lobby", "default/named"])


def test_class_that_had_the_hostname_of_a_tenant_for_a_moment_does_not_reserve_it() -> None:
    named = LISTENER.replace("lobby", "named") + "  addresses: [{name: a, hostname: a.example.org}]\n"
    previous = compiled(CLASS, TENANT, LISTENER, named, now=NOW).snapshot
    edited_class = CLASS.replace("hooks.example.com", "a.example.org")
    edited = compiled(edited_class, TENANT, LISTENER, named, previous=previous, now=NOW)
    assert reasons(edited) == ["HostnameReserved"]
    reverted = compiled(CLASS, TENANT, LISTENER, named, previous=edited.snapshot, now=NOW)
    assert reasons(reverted) == []
    assert reverted.snapshot.listeners["default/named"].live_addresses == previous.listeners["default/named"].addresses


def test_path_conflict_removes_only_that_address() -> None:
    first = LISTENER + "  authentication: {type: None}\n  addresses: [{name: a, hostname: a.example.org, path: /x}]\n"
    second = LISTENER.replace("lobby", "second") + (
        "  authentication: {type: None}\n"
        "  addresses: [{name: a, hostname: a.example.org, path: /x}, {name: b, hostname: a.example.org, path: /y}]\n"
    )
    result = compiled(CLASS, TENANT, first, second)
    assert [address.path for address in result.snapshot.listeners["default/second"].addresses] == ["/y"]
    assert "PathConflict" in reasons(result)


def test_query_order_does_not_change_an_address() -> None:
    def listener_at(name: str, query: str) -> str:
        address = f"{{name: a, hostname: a.example.org, path: /x, query: [{query}]}}"
        return LISTENER.replace("lobby", name) + f"  authentication: {{type: None}}\n  addresses: [{address}]\n"

    pairs = ["{name: a, value: b}", "{name: c, value: d}"]
    result = compiled(
        CLASS, TENANT, listener_at("first", ", ".join(pairs)), listener_at("second", ", ".join(pairs[::-1]))
    )
    assert list(result.snapshot.listeners) == ["default/first"]


def test_guessable_path_needs_explicit_authentication() -> None:
    address = "  addresses: [{name: a, hostname: a.example.org, path: /hook.php}]\n"
    assert compiled(CLASS, TENANT, LISTENER + address).snapshot.listeners == {}
    spelled = compiled(CLASS, TENANT, LISTENER + address + "  authentication: {type: None}\n")
    (warning,) = spelled.findings
    assert spelled.snapshot.listeners
    assert (warning.severity, "guesses" in warning.message) == ("warning", True)
    secret = address.replace("/hook.php", "/hook/0a1b2c3d4e5f6a7b8c9d")
    assert compiled(CLASS, TENANT, LISTENER + secret).findings == ()


def test_implicit_class_serves_localhost_and_named_hostnames() -> None:
    result = compiled(TENANT, LISTENER, allow_implicit_class=True)
    assert result.snapshot.listeners["default/lobby"].addresses[0].host == "localhost"
    assert [finding.severity for finding in result.findings] == ["notice"]
    named = compiled(TENANT, LISTENER + OTHER, allow_implicit_class=True)
    assert named.snapshot.listeners["default/lobby"].addresses[0].host == "shop.example.org"
    assert reasons(compiled(TENANT, LISTENER)) == ["ClassNotFound"]
    assert "ClassNotFound" in reasons(
        compiled(CLASS.replace("public", "other"), TENANT, LISTENER, allow_implicit_class=True)
    )


def test_credential_becomes_digest_of_the_header_value() -> None:
    basic = compiled(
        CLASS, TENANT, SECRET, LISTENER + "  authentication: {type: Basic, basic: {secretRef: {name: s}}}\n"
    )
    value = b"Basic " + base64.b64encode(b"purple:pw")
    authentication = basic.snapshot.listeners["default/lobby"].authentication
    assert authentication == documents.Authentication(
        "Basic", "authorization", documents.credential_digest(value, KEYS.credential)
    )
    header = "  authentication: {type: Header, header: {name: X-Key, secretRef: {name: s, key: token}}}\n"
    authentication = (
        compiled(CLASS, TENANT, SECRET, LISTENER + header).snapshot.listeners["default/lobby"].authentication
    )
    assert (authentication.header, authentication.digest) == (
        "x-key",
        documents.credential_digest(b"tok", KEYS.credential),
    )


AUTHENTICATED = LISTENER + "  authentication: {type: Basic, basic: {secretRef: {name: s}}}\n"


def test_missing_secret_fails_closed_and_removed_secret_stays() -> None:
    never = compiled(CLASS, TENANT, AUTHENTICATED)
    assert never.snapshot.listeners["default/lobby"].authentication.type == "Unresolved"
    previous = compiled(CLASS, TENANT, SECRET, AUTHENTICATED).snapshot
    gone = compiled(CLASS, TENANT, AUTHENTICATED, previous=previous)
    assert gone.snapshot == previous
    assert [(finding.condition, finding.reason) for finding in gone.findings] == [("ResolvedRefs", "SecretNotFound")]


def test_new_authentication_with_missing_secret_fails_closed() -> None:
    previous = compiled(CLASS, TENANT, LISTENER).snapshot
    after = compiled(CLASS, TENANT, AUTHENTICATED, previous=previous).snapshot
    assert after.listeners["default/lobby"].authentication.type == "Unresolved"


def test_credential_of_another_type_or_header_does_not_stay() -> None:
    header = LISTENER + "  authentication: {type: Header, header: {name: X-Key, secretRef: {name: new, key: token}}}\n"
    for before in (AUTHENTICATED, header.replace("new", "s").replace("X-Key", "X-Old")):
        previous = compiled(CLASS, TENANT, SECRET, before).snapshot
        after = compiled(CLASS, TENANT, SECRET, header, previous=previous).snapshot
        assert after.listeners["default/lobby"].authentication.type == "Unresolved"


def test_address_may_not_have_the_name_of_the_class_address() -> None:
    addresses = "  addresses: [{name: class, hostname: a.example.org}]\n"
    (finding,) = compiled(CLASS, TENANT, LISTENER + addresses).findings
    assert (finding.path, finding.reason) == ("spec.addresses[0].name", "UnsupportedValue")


def test_unlabelled_secret_is_error_in_cluster_warning_in_files() -> None:
    bare = SECRET.replace(', labels: {usher.dev/watch: "true"}', "")
    cluster = compiled(CLASS, TENANT, bare, AUTHENTICATED)
    assert reasons(cluster) == ["SecretNotLabelled"]
    assert cluster.snapshot.listeners["default/lobby"].authentication.type == "Unresolved"
    files = compiled(CLASS, TENANT, bare, AUTHENTICATED, require_watch_label=False)
    assert [finding.severity for finding in files.findings] == ["warning"]
    assert files.snapshot.listeners["default/lobby"].authentication.type == "Basic"


SECURED = DESTINATION + (
    "    authentication: {type: Bearer, bearer: {secretRef: {name: s, key: token}}}\n"
    "    headers: [{name: X-User, valueFrom: {secretKeyRef: {name: s, key: username}}}, {name: X-A, value: b}]\n"
    "    signing: {secretRefs: [{name: s, key: second}]}\n"
)


def test_destination_gets_its_secrets_resolved() -> None:
    destination = compiled(CLASS, TENANT, SECRET, SECURED).snapshot.destinations["default/crm"]
    assert destination.headers == (("X-User", "purple"), ("X-A", "b"), ("Authorization", "Bearer tok"))
    assert destination.signing_secrets == ("whsec_c2Vjb25k",)
    assert destination.unresolved == ""


def test_blanks_at_the_ends_of_a_header_value_are_left_out() -> None:
    secret = SECRET.replace("username: purple", 'username: " purple "')
    secured = SECURED.replace("value: b", 'value: " b c "')
    destination = compiled(CLASS, TENANT, secret, secured).snapshot.destinations["default/crm"]
    assert destination.headers[:2] == (("X-User", "purple"), ("X-A", "b c"))


@pytest.mark.parametrize("value", ["whsec_", "whsec_!", '"whsec_ "', '"whsec_c2Vj b25k"'])
def test_signing_secret_without_a_key_is_refused(value: str) -> None:
    result = compiled(CLASS, TENANT, SECRET.replace("whsec_c2Vjb25k", value), SECURED)
    assert [finding.path for finding in result.findings] == ["spec.http.signing.secretRefs[0]"]


def test_destination_without_secrets_is_marked_unresolved() -> None:
    destination = compiled(CLASS, TENANT, SECURED).snapshot.destinations["default/crm"]
    assert (destination.unresolved, destination.headers, destination.signing_secrets) == ("SecretNotFound", (), ())
    assert destination.missing == "Secret `s` must exist in the same namespace"


def test_last_good_credential_keeps_its_url() -> None:
    previous = compiled(CLASS, TENANT, SECRET, SECURED).snapshot
    moved = SECURED.replace("https://crm.example/", "https://thief.example/").replace(
        "type: HTTP", "type: HTTP\n  state: Paused"
    )
    after = compiled(CLASS, TENANT, moved, previous=previous).snapshot.destinations["default/crm"]
    assert (after.url, after.state) == ("https://crm.example/", "Paused")
    assert after.headers == previous.destinations["default/crm"].headers


def test_destination_of_another_tenant_gets_no_former_url_and_credential() -> None:
    owned = SECURED.replace("type: HTTP", "type: HTTP\n  tenantRef: {name: acme}")
    previous = compiled(CLASS, TENANT, SECRET, owned).snapshot
    moved = owned.replace("{name: acme}", "{name: globex}").replace("crm.example", "globex.example")
    after = compiled(CLASS, TENANT.replace("acme", "globex"), moved, previous=previous).snapshot
    destination = after.destinations["default/crm"]
    assert (destination.tenant, destination.url, destination.headers) == ("globex", "https://globex.example/", ())
    assert destination.unresolved == "SecretNotFound"


RSA_KEY = certificates.rsa_key(2048)
ACCOUNT = json.dumps({"client_email": "usher@x.example", "private_key": RSA_KEY, "private_key_id": "k1", "type": "x"})
OAUTH2 = DESTINATION.replace("https://crm.example/", "https://crm.example/{key}") + (
    "    urlVariables: [{name: key, valueFrom: {secretKeyRef: {name: s, key: token}}}]\n"
    "    authentication:\n"
    "      type: OAuth2\n"
    "      oauth2:\n"
    "        grant: JWTBearer\n"
    "        tokenURL: https://login.example/token\n"
    "        scopes: [a, b]\n"
    "        jwtBearer: {secretRef: {name: s, key: account}}\n"
)


def test_private_key_without_an_issuer_is_refused() -> None:
    """A token request must have an issuer. Source: RFC 7523 §3."""
    secret = SECRET.replace("token: tok", f"token: tok, account: {json.dumps(RSA_KEY)}")
    assert reasons(compiled(CLASS, TENANT, secret, OAUTH2)) == ["UnsupportedValue"]
    issued = OAUTH2.replace("jwtBearer: {", "jwtBearer: {issuer: usher, ")
    assert reasons(compiled(CLASS, TENANT, secret, issued)) == []


@pytest.mark.parametrize("key", ["-----BEGIN", '{"type": "service_account"}', certificates.rsa_key(8192)])
def test_private_key_that_cannot_sign_is_refused(key: str) -> None:
    secret = SECRET.replace("token: tok", f"token: tok, account: {json.dumps(key)}")
    issued = OAUTH2.replace("jwtBearer: {", "jwtBearer: {issuer: usher, ")
    assert reasons(compiled(CLASS, TENANT, secret, issued)) == ["CertificateInvalid"]


def test_service_account_is_read_as_it_was_downloaded() -> None:
    secret = SECRET.replace("token: tok", f"token: tok, account: {json.dumps(ACCOUNT)}")
    destination = compiled(CLASS, TENANT, secret, OAUTH2).snapshot.destinations["default/crm"]
    assert destination.oauth2 == documents.OAuth2(
        "JWTBearer",
        "https://login.example/token",
        ("a", "b"),
        issuer="usher@x.example",
        private_key=RSA_KEY,
        key_id="k1",
    )
    assert destination.url_variables == (documents.UrlVariable("key", secret="tok"),)
    gone = compiled(CLASS, TENANT, OAUTH2).snapshot.destinations["default/crm"]
    assert (gone.unresolved, gone.oauth2, gone.url_variables) == ("SecretNotFound", None, ())
    previous = compiled(CLASS, TENANT, secret, OAUTH2).snapshot
    moved = OAUTH2.replace("crm.example/{key}", "thief.example/{key}").replace("login.example", "thief.example")
    assert compiled(CLASS, TENANT, moved, previous=previous).snapshot.destinations == previous.destinations


def test_key_that_is_deeply_nested_json_stops_no_other_object() -> None:
    nested = '{"a":' + "[" * 50_000
    secret = SECRET.replace("token: tok", f"token: tok, account: {json.dumps(nested)}")
    issued = OAUTH2.replace("jwtBearer: {", "jwtBearer: {issuer: usher, ")
    other = DESTINATION.replace("{name: crm}", "{name: other}")
    result = compiled(CLASS, TENANT, secret, issued, other)
    assert reasons(result) == ["CertificateInvalid"]
    assert result.snapshot.destinations["default/other"].unresolved == ""


@pytest.mark.parametrize(("scheme", "value"), [("", "tok"), (", scheme: Klaviyo-API-Key", "Klaviyo-API-Key tok")])
def test_credential_goes_into_any_header(scheme: str, value: str) -> None:
    header = f"{{name: Api-Key, secretRef: {{name: s, key: token}}{scheme}}}"
    authenticated = DESTINATION + f"    authentication: {{type: Header, header: {header}}}\n"
    destination = compiled(CLASS, TENANT, SECRET, authenticated).snapshot.destinations["default/crm"]
    assert destination.headers == (("Api-Key", value),)


def test_line_end_is_cut_after_a_secret_and_refused_inside() -> None:
    ended = SECRET.replace("token: tok", 'token: "tok\\n"')
    destination = compiled(CLASS, TENANT, ended, SECURED).snapshot.destinations["default/crm"]
    assert destination.headers[-1] == ("Authorization", "Bearer tok")
    inside = SECRET.replace("token: tok", 'token: "tok\\r\\nX-Evil: 1"')
    result = compiled(CLASS, TENANT, inside, SECURED)
    assert reasons(result) == ["SecretKeyNotFound"]


def test_secret_value_over_64_kib_is_refused() -> None:
    long = SECRET.replace("token: tok", f"token: {'x' * 65_537}")
    result = compiled(CLASS, TENANT, long, SECURED)
    assert reasons(result) == ["SecretKeyNotFound"]
    assert any("at most 65536 bytes" in finding.message for finding in result.findings)
    assert "Evil" not in repr(result)


def test_destination_of_another_tenant_counts_as_missing() -> None:
    theirs = DESTINATION.replace("{name: crm}", "{name: theirs}").replace("spec:", "spec:\n  tenantRef: {name: other}")
    other = TENANT.replace("acme", "other")
    routes = "  routes: [{name: a, destinationRef: {name: theirs}}, {name: b, destinationRef: {name: crm}}]\n"
    result = compiled(CLASS, TENANT, other, DESTINATION, theirs, LISTENER + routes)
    assert [route.name for route in result.snapshot.listeners["default/lobby"].routes] == ["a", "b"]
    assert reasons(result) == ["DestinationNotFound"]
    assert "`theirs` belongs to Tenant `other`" in result.findings[0].message
    assert result.findings[0].condition == "ResolvedRefs"


WRONG = LISTENER + "  routes: [{name: crm, destinationRef: {name: crm}, when: visit.emial == ''}]\n"


def test_bad_expression_keeps_last_good_listener_with_new_tenant() -> None:
    previous = compiled(CLASS, TENANT, DESTINATION, LISTENER + ROUTE).snapshot
    suspended = TENANT + "spec: {state: Suspended}\n"
    after = compiled(CLASS, suspended, DESTINATION, WRONG, previous=previous)
    listener = after.snapshot.listeners["default/lobby"]
    assert listener.routes == previous.listeners["default/lobby"].routes
    assert listener.tenant.state == "Suspended"
    assert reasons(after) == ["ExpressionInvalid"]


def test_listener_of_another_tenant_gets_no_former_url_and_credential() -> None:
    previous = compiled(CLASS, TENANT, SECRET, DESTINATION, AUTHENTICATED).snapshot.listeners["default/lobby"]
    assert previous.authentication.digest
    moved = AUTHENTICATED.replace("{name: acme}", "{name: globex}") + WRONG.removeprefix(LISTENER)
    in_force = documents.Snapshot({previous.key: previous}, {})
    after = compiled(CLASS, TENANT.replace("acme", "globex"), DESTINATION, moved, previous=in_force)
    listener = after.snapshot.listeners["default/lobby"]
    assert (listener.tenant.name, listener.authentication.type) == ("globex", "Unresolved")
    assert not {address.url for address in listener.addresses} & {address.url for address in previous.addresses}


def test_new_listener_with_bad_expression_gets_a_document() -> None:
    listener = compiled(CLASS, TENANT, DESTINATION, WRONG).snapshot.listeners["default/lobby"]
    assert listener.routes[0].when == "visit.emial == ''"


def test_last_good_listener_loses_address_of_another_tenant() -> None:
    texts = two_tenants()
    previous = compiled(*texts).snapshot
    released = WRONG + "  addresses: [{name: a, hostname: free.example.org}]\n"
    after = compiled(*texts[:3], released, texts[4], previous=previous)
    assert list(after.snapshot.listeners) == ["elsewhere/theirs"]


def test_removed_class_keeps_the_last_good_listener() -> None:
    previous = compiled(CLASS, TENANT, LISTENER).snapshot
    after = compiled(TENANT, LISTENER, previous=previous)
    assert (after.snapshot, reasons(after)) == (previous, ["ClassNotFound"])


@pytest.mark.parametrize("limit", ["listenersPerNamespace", "hostnamesPerNamespace"])
def test_limit_prefers_listeners_in_force(limit: str) -> None:
    limited = CLASS + f"  maximums: {{{limit}: 1}}\n"
    first = LISTENER + "  addresses: [{name: a, hostname: b.example.org}]\n"
    second = LISTENER.replace("lobby", "aaa") + "  addresses: [{name: a, hostname: a.example.org}]\n"
    previous = compiled(limited, TENANT, first).snapshot
    after = compiled(limited, TENANT, second, first, previous=previous)
    assert list(after.snapshot.listeners) == ["default/lobby"]
    assert [(finding.key, str(finding.reason)) for finding in after.findings] == [("default/aaa", "LimitExceeded")]


def test_hostname_limit_counts_retired_hostnames_until_they_end() -> None:
    limited = CLASS + "  maximums: {hostnamesPerNamespace: 1}\n"
    previous = compiled(limited, TENANT, LISTENER + "  addresses: [{name: a, hostname: a.example.org}]\n").snapshot
    renamed = LISTENER + "  addresses: [{name: a, hostname: b.example.org}]\n"
    after = compiled(limited, TENANT, renamed, previous=previous, now=NOW)
    (refused,) = after.findings
    assert (refused.reason, "retired addresses count until they end" in refused.message) == ("LimitExceeded", True)
    assert [address.host for address in after.snapshot.listeners["default/lobby"].addresses] == ["a.example.org"]
    week_later = NOW + 8 * model.DAY
    ended = compiled(limited, TENANT, renamed, previous=after.snapshot, now=week_later)
    final = compiled(limited, TENANT, renamed, previous=ended.snapshot, now=week_later)
    assert [address.host for address in final.snapshot.listeners["default/lobby"].addresses] == ["b.example.org"]
    assert final.findings == ()


def test_hostname_limit_does_not_count_hostnames_of_classes() -> None:
    limited = CLASS + "  maximums: {hostnamesPerNamespace: 1}\n"
    previous = compiled(limited, TENANT, LISTENER).snapshot
    second = LISTENER.replace("lobby", "bar") + "  addresses: [{name: a, hostname: a.example.org}]\n"
    after = compiled(limited, TENANT, LISTENER, second, previous=previous)
    assert (sorted(after.snapshot.listeners), after.findings) == (["default/bar", "default/lobby"], ())


def test_class_settings_are_in_the_listener_document() -> None:
    said = CLASS + (
        "  clientAddress: {from: XForwardedFor, trustedProxies: [10.1.2.3/8]}\n"
        "  maximums: {maxBodyBytes: 2048, requestsPerSecond: 7, storedBytesPerTenant: 2000000}\n"
    )
    listener = compiled(said, TENANT, LISTENER, trusted_proxies=("192.0.2.1",)).snapshot.listeners["default/lobby"]
    limits = (listener.max_body_bytes, listener.requests_per_second, listener.max_stored_bytes)
    assert limits == (2048, 7, 2_000_000)
    assert (listener.client_address_from, listener.trusted_proxies) == ("XForwardedFor", ("10.0.0.0/8", "192.0.2.1/32"))


def test_field_overrides_are_merged_over_the_defaults() -> None:
    fields = "  fields: {user: /member, occurredAt: /at, occurredAtZone: Europe/Paris}\n"
    listener = compiled(CLASS, TENANT, LISTENER + fields).snapshot.listeners["default/lobby"]
    assert listener.fields == {**documents.DEFAULT_FIELDS, "user": ("/member",), "occurredAt": ("/at",)}
    assert listener.occurred_at_zone == "Europe/Paris"
