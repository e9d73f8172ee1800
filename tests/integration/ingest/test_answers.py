"""The table of answers to Purple: status, header and how the arrival is counted."""

import collections
import gzip
import json
import zlib
from pathlib import Path

import pytest
import structlog

from support import gateway as gateways
from support import leaks, wire


def visit(user: int) -> bytes:
    return json.dumps({"user": {"id": user, "firstName": leaks.PERSON, "venue": {"id": 9}}}).encode()


async def test_visit_is_acknowledged_for_any_method_with_a_body(gateway: gateways.RunningGateway) -> None:
    for user, method in enumerate(("POST", "PUT", "PATCH")):
        assert (await wire.exchange(gateway.port, wire.request(gateway.target(), visit(user), method))).acknowledges
    assert gateway.counted() == {"visit": 3}
    assert await gateway.meters() == {"visits": 3}


async def test_requests_without_content_are_probes(gateway: gateways.RunningGateway) -> None:
    async with wire.connect(gateway.port) as connection:
        for method in ("GET", "HEAD", "OPTIONS", "GET"):
            await connection.send(wire.request(gateway.target(), method=method))
            answer = await connection.answer()
            assert answer.acknowledges
            assert answer.headers["content-length"] == "0"
    for body in (b"", b"{}", b"{ \n }", b"\r\n" * 20, "{}".encode("utf-16")):
        assert (await gateway.post(body)).acknowledges, body
    for encoding in ("gzip", "deflate", "br"):
        assert (await gateway.post(b"", Content_Encoding=encoding)).acknowledges, encoding
    assert gateway.counted() == {"probe": 12}
    assert await gateway.meters() == {"probes": 12}


# Content, headers, reason. The tests of `body.py` try other bodies for the reasons that it finds.
QUARANTINED = {
    "not json": (b"hello", {}, "NotJSON"),
    "a list": (b"[]", {}, "NotObject"),
    "no user": (b'{"a":1}', {}, "NoUser"),
    "not the charset it says": (b'{"user":{"id":"\xff"}}', {}, "BadCharset"),
    "unknown charset": (visit(1), {"Content_Type": "application/json; charset=x-none"}, "BadCharset"),
    "100000 levels": (b'{"user":' + b"[" * 100_000 + b"]" * 100_000 + b"}", {}, "TooDeep"),
    "2001 nodes": (b'{"user":{},"l":[' + b"1," * 1997 + b"1]}", {}, "TooManyNodes"),
    "brotli": (b"\x0b\x02\x80{}\x03", {"Content_Encoding": "br"}, "BadEncoding"),
    "half gzip": (gzip.compress(visit(2))[:-9], {"Content_Encoding": "gzip"}, "BadEncoding"),
    "a loop": (visit(3), {"usher_hops": "2"}, "Loop"),
    "a long loop": (visit(4), {"usher_hops": "99999"}, "Loop"),
    "larger than maxBodyBytes": (b'{"user":{},"x":"' + b"x" * 262_144 + b'"}', {}, "Truncated"),
}


async def test_bad_body_is_acknowledged_and_quarantined(gateway: gateways.RunningGateway) -> None:
    for name, (body, headers, _) in QUARANTINED.items():
        assert (await gateway.post(body, **headers)).acknowledges, name
    reasons = collections.Counter(f"quarantined:{reason}" for _, _, reason in QUARANTINED.values())
    assert gateway.counted() == {"quarantined": len(QUARANTINED), **reasons}
    assert await gateway.meters() == {"quarantined": len(QUARANTINED)}


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b'{"user":{},"x":"' + b"x" * 300_000 + b'"}', {}),
        (b"x" * 1_000_000, {"Content_Encoding": "br"}),
    ],
    ids=["json", "cannot be inflated"],
)
async def test_beginning_of_a_too_large_body_is_kept(
    gateway: gateways.RunningGateway, body: bytes, headers: dict[str, str]
) -> None:
    assert (await gateway.post(body, **headers)).acknowledges
    assert gateway.counted() == {"quarantined": 1, "quarantined:Truncated": 1}
    await gateway.gateway.store.flush()
    [(kept, size)] = gateway.store.rows("select body, body_size from bodies join arrivals using (key)")
    assert kept == body[:65_536]
    assert size == len(body)


async def test_encoded_visit_is_accepted(gateway: gateways.RunningGateway) -> None:
    encoded = [
        (gzip.compress(visit(1)), {"Content_Encoding": "gzip"}),
        (zlib.compress(visit(2)), {"Content_Encoding": "deflate"}),
        (gzip.compress(zlib.compress(visit(3))), {"Content_Encoding": "deflate, gzip"}),
        (visit(4), {"Content_Encoding": "identity"}),
        (visit(5).decode().encode("utf-16"), {"Content_Type": "application/json; Charset=UTF-16"}),
    ]
    for body, headers in encoded:
        assert (await gateway.post(body, **headers)).acknowledges, headers
    assert gateway.counted() == {"visit": len(encoded)}


async def test_several_content_encoding_headers_are_stacked(gateway: gateways.RunningGateway) -> None:
    body = gzip.compress(zlib.compress(visit(1)))
    head = wire.request(gateway.target(), body).partition(b"\r\n\r\n")[0]
    data = head + b"\r\nContent-Encoding: deflate\r\nContent-Encoding: gzip\r\n\r\n" + body
    assert (await wire.exchange(gateway.port, data)).acknowledges
    assert gateway.counted() == {"visit": 1}


async def test_every_unknown_address_gets_the_same_404(gateway: gateways.RunningGateway) -> None:
    target = gateway.target()
    other_token = target[:-1] + ("a" if target[-1] != "a" else "b")
    requests = [
        wire.request("/", visit(1)),
        wire.request(target, visit(1), host="other.test"),
        wire.request("/v2" + target[3:], visit(1)),
        wire.request(other_token, visit(1)),
        wire.request("*", method="OPTIONS"),
        *[wire.request(odd, visit(1)) for odd in ("/v1/%zz", "/%", "/v1/%00", "/../..//v1/x", "/?%zz=%&&=;", "/#x")],
    ]
    answers = [await wire.exchange(gateway.port, request) for request in requests]
    assert [(answer.status, answer.has_header) for answer in answers] == [(404, False)] * len(requests)
    assert len({answer.without_date for answer in answers}) == 1
    assert gateway.counted() == {"refused:NotFound": len(requests)}
    assert await gateway.meters() == {}


async def test_other_methods_get_405(gateway: gateways.RunningGateway) -> None:
    for method in ("DELETE", "TRACE", "PROPFIND", "LOCK"):
        answer = await wire.exchange(gateway.port, wire.request(gateway.target(), method=method))
        assert (answer.status, answer.has_header) == (405, False)
        assert "POST" in answer.headers["allow"]
    assert gateway.counted() == {"refused:MethodNotAllowed": 4}
    assert await gateway.meters() == {"refused": 4}


async def test_arrival_before_the_first_configuration_gets_503(tmp_path: Path) -> None:
    async with gateways.running(tmp_path, "") as gateway:
        answer = await wire.exchange(gateway.port, wire.request("/v1/token", visit(1)))
        assert (answer.status, answer.has_header) == (503, False)
        assert int(answer.headers["retry-after"]) > 0
        assert gateway.counted() == {"refused:NotConfigured": 1}


SECRETS = """
apiVersion: v1
kind: Secret
metadata: {name: hook, namespace: agency}
stringData: {username: purple, password: "s3:cret", key: "key-1"}
---
"""

AUTHENTICATIONS = {
    "basic": "{type: Basic, basic: {secretRef: {name: hook}}}",
    "keyed": "{type: Header, header: {name: X-Hook-Key, secretRef: {name: hook, key: key}}}",
    "closed": "{type: Basic, basic: {secretRef: {name: absent}}}",
}


def listener(name: str, fields: str) -> str:
    return gateways.LISTENER.replace("{name: wifi,", f"{{name: {name},").replace("  routes: []", fields)


async def test_authentication_is_checked(tmp_path: Path) -> None:
    manifests = gateways.CLASS + gateways.TENANT + SECRETS
    manifests += "".join(
        listener(name, f"  authentication: {value}\n  routes: []") for name, value in AUTHENTICATIONS.items()
    )
    async with gateways.running(tmp_path, manifests) as gateway:
        for given in ({}, {"Authorization": "Basic cHVycGxlOndyb25n"}, {"Authorization": "Bearer x"}):
            answer = await gateway.post(visit(1), "agency/basic", **given)
            assert (answer.status, answer.has_header) == (401, False)
            assert answer.headers["www-authenticate"].startswith("Basic ")
        assert (await gateway.post(visit(1), "agency/basic", Authorization="Basic cHVycGxlOnMzOmNyZXQ=")).acknowledges
        assert (await gateway.post(visit(1), "agency/keyed", X_Hook_Key="key-2")).status == 401
        assert (await gateway.post(visit(1), "agency/keyed", X_Hook_Key="key-1")).acknowledges
        answer = await gateway.post(visit(1), "agency/closed", Authorization="Basic Og==")
        assert (answer.status, answer.has_header) == (503, False)
        counts = {"visit": 2, "refused:Unauthenticated": 4, "refused:AuthenticationUnresolved": 1}
        assert gateway.counted() == counts
        assert await gateway.meters("basic") == {"visits": 1, "refused": 3}


async def test_refused_arrival_is_logged_with_the_missing_secret(tmp_path: Path) -> None:
    fields = f"  authentication: {AUTHENTICATIONS['closed']}\n  routes: []"
    with structlog.testing.capture_logs() as logs:
        async with gateways.running(tmp_path, gateways.CLASS + gateways.TENANT + listener("closed", fields)) as gateway:
            assert (await gateway.post(visit(1), "agency/closed")).status == 503
    (line,) = [line for line in logs if line["event"] == "arrivals_refused"]
    assert (line["listener"], line["reasons"]) == ("agency/closed", {"AuthenticationUnresolved": 1})
    assert line["missing"] == "Secret `absent` must exist in the same namespace"


def sources(policy: str) -> str:
    return f"  allowedSources: {{ranges: [203.0.113.0/24], policy: {policy}}}\n  routes: []"


async def test_unexpected_source_is_counted_and_refused_if_enforced(tmp_path: Path) -> None:
    listeners = listener("enforced", sources("Enforce")) + listener("reported", sources("Report"))
    async with gateways.running(tmp_path, gateways.CLASS + gateways.TENANT + listeners) as gateway:
        answer = await gateway.post(visit(1), "agency/enforced", X_Forwarded_For="203.0.113.5")
        assert (answer.status, answer.has_header) == (403, False)
        assert (await gateway.post(visit(1), "agency/reported")).acknowledges
        assert gateway.counted() == {"visit": 1, "refused:SourceNotAllowed": 1}
        assert 'usher_unexpected_sources_total{tenant_namespace="agency",tenant="acme"} 1.0' in gateway.exposition()


async def test_trusted_proxy_names_the_client_address(tmp_path: Path) -> None:
    trusting = gateways.CLASS.replace(
        "  hostname: hooks.test",
        "  hostname: hooks.test\n  clientAddress: {from: XForwardedFor, trustedProxies: [127.0.0.0/8]}",
    )
    manifests = trusting + gateways.TENANT + listener("wifi", sources("Enforce"))
    async with gateways.running(tmp_path, manifests) as gateway:
        assert (await gateway.post(visit(1), X_Forwarded_For="203.0.113.5")).acknowledges
        assert (await gateway.post(visit(1), X_Forwarded_For="203.0.113.5, 127.0.0.1")).acknowledges
        for forged in ("203.0.113.5, 198.51.100.1", "198.51.100.1", "203.0.113.5, unknown", ""):
            assert (await gateway.post(visit(1), X_Forwarded_For=forged)).status == 403


async def test_other_company_is_handled_by_company_check(tmp_path: Path) -> None:
    manifests, expected = gateways.CLASS, {"Warn": {"visits": 2}, "Off": {"visits": 2}}
    expected["Quarantine"] = {"visits": 1, "quarantined": 1}
    for check in expected:
        tenant = gateways.TENANT.replace("displayName: Acme", f'companyID: "77", companyCheck: "{check}"')
        manifests += (tenant + listener(f"for-{check.lower()}", "  routes: []")).replace(
            "acme", f"with-{check.lower()}"
        )
    async with gateways.running(tmp_path, manifests) as gateway:
        for check, meters in expected.items():
            for user, company in ((1, 78), (2, "77")):
                body = json.dumps({"user": {"id": user, "venue": {"company": {"id": company}}}}).encode()
                assert (await gateway.post(body, f"agency/for-{check.lower()}")).acknowledges
            assert await gateway.meters(f"for-{check.lower()}") == meters


async def test_old_tokens_are_accepted_until_they_expire(tmp_path: Path) -> None:
    rotated = gateways.LISTENER.replace(
        "  routes: []",
        "  token: {generation: 2, alsoAccept: ["
        "{generation: 1, untilTime: '2099-01-01T00:00:00Z', action: Accept},"
        "{generation: 0, untilTime: '2000-01-01T00:00:00Z', action: Hold}]}\n  routes: []",
    )
    async with gateways.running(tmp_path, gateways.CLASS + gateways.TENANT + rotated) as gateway:
        addresses = gateway.gateway.snapshot.listeners["agency/wifi"].addresses
        statuses = [
            (await wire.exchange(gateway.port, wire.request(address.path, visit(1)))).status for address in addresses
        ]
        assert len(set(addresses)) == 3
        assert sorted(statuses) == [200, 200, 404]
