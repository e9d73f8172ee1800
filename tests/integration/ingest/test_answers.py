"""The table of answers to Purple: status, header and how the arrival is counted."""

import contextlib
import gzip
import json
import zlib
from pathlib import Path

import pytest

from support import gateway as gateways
from support import leaks, wire
from usher_gateway.store import encodings


def gzip_of(data: bytes, level: int = 9) -> bytes:
    """Gzip without a timestamp, because test names must be the same in every process."""
    return gzip.compress(data, level, mtime=0)


VISIT = json.dumps({"user": {"id": 7, "firstName": leaks.PERSON, "venue": {"id": 9}}}).encode()


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_visit_is_acknowledged_for_any_method_with_a_body(gateway: gateways.RunningGateway, method: str) -> None:
    answer = await wire.exchange(gateway.port, wire.request(gateway.target(), VISIT, method))
    assert answer.acknowledges
    assert gateway.counted() == {"visit": 1}
    assert await gateway.meters() == {"visits": 1}


async def test_second_arrival_of_a_visitor_is_a_repeat(gateway: gateways.RunningGateway) -> None:
    assert (await gateway.post(VISIT)).acknowledges
    assert (await gateway.post(VISIT)).acknowledges
    assert gateway.counted() == {"visit": 1, "repeat": 1}


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_probe_with_any_safe_method_is_acknowledged(gateway: gateways.RunningGateway, method: str) -> None:
    async with wire.connect(gateway.port) as connection:
        for _ in range(2):
            await connection.send(wire.request(gateway.target(), method=method))
            answer = await connection.answer()
            assert answer.acknowledges
            assert answer.headers["content-length"] == "0"
    assert gateway.counted() == {"probe": 2}
    assert await gateway.meters() == {"probes": 2}


@pytest.mark.parametrize(
    "body", [b"", b"{}", b" ", b"\r\n" * 20, b"{ \n }", b"\xef\xbb\xbf{}", b"\xef\xbb\xbf", "{}".encode("utf-16")]
)
async def test_post_without_content_is_a_probe(gateway: gateways.RunningGateway, body: bytes) -> None:
    assert (await gateway.post(body)).acknowledges
    assert gateway.counted() == {"probe": 1}


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
async def test_empty_body_is_a_probe_with_any_content_encoding(gateway: gateways.RunningGateway, encoding: str) -> None:
    assert (await gateway.post(b"", Content_Encoding=encoding)).acknowledges
    assert gateway.counted() == {"probe": 1}


QUARANTINED = {
    "not json": (b"hello", {}, "NotJSON"),
    "half json": (VISIT[:-3], {}, "NotJSON"),
    "a list": (b"[]", {}, "NotObject"),
    "a text": (b'"x"', {}, "NotObject"),
    "null": (b"null", {}, "NotObject"),
    "no user": (b'{"a":1}', {}, "NoUser"),
    "user is no object": (b'{"user":7}', {}, "NoUser"),
    "not the charset it says": (b'{"user":{"id":"\xff"}}', {}, "BadCharset"),
    "unknown charset": (VISIT, {"Content_Type": "application/json; charset=x-none"}, "BadCharset"),
    "65 levels": (b'{"user":' + b"[" * 64 + b"]" * 64 + b"}", {}, "TooDeep"),
    "100000 levels": (b'{"user":' + b"[" * 100_000 + b"]" * 100_000 + b"}", {}, "TooDeep"),
    "2001 nodes": (b'{"user":{},"l":[' + b"1," * 1997 + b"1]}", {}, "TooManyNodes"),
    "brotli": (b"\x0b\x02\x80{}\x03", {"Content_Encoding": "br"}, "BadEncoding"),
    "no gzip": (VISIT, {"Content_Encoding": "gzip"}, "BadEncoding"),
    "half gzip": (gzip_of(VISIT)[:-9], {"Content_Encoding": "gzip"}, "BadEncoding"),
    "a loop": (VISIT, {"usher_hops": "2"}, "Loop"),
    "a long loop": (VISIT, {"usher_hops": "99999"}, "Loop"),
    "larger than maxBodyBytes": (b'{"user":{},"x":"' + b"x" * 262_144 + b'"}', {}, "Truncated"),
}


@pytest.mark.parametrize("name", QUARANTINED)
async def test_bad_body_is_acknowledged_and_quarantined(gateway: gateways.RunningGateway, name: str) -> None:
    body, headers, reason = QUARANTINED[name]
    assert (await gateway.post(body, **headers)).acknowledges
    assert gateway.counted() == {"quarantined": 1, f"quarantined:{reason}": 1}
    assert await gateway.meters() == {"quarantined": 1}


async def test_beginning_of_a_too_large_body_is_kept(gateway: gateways.RunningGateway) -> None:
    body = b'{"user":{},"x":"' + b"x" * 300_000 + b'"}'
    assert (await gateway.post(body)).acknowledges
    await gateway.gateway.store.flush()
    connection = gateways.connect_to(gateway.gateway.settings.data)
    [(kept,)] = connection.execute("select body from bodies").fetchall()
    [(size,)] = connection.execute("select body_size from arrivals").fetchall()
    connection.close()
    assert encodings.unpack_body(kept) == body[:65_536]
    assert size == len(body)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip_of(VISIT)),
        ("x-gzip", gzip_of(VISIT)),
        ("GZIP", gzip_of(VISIT[:20]) + gzip_of(VISIT[20:])),
        ("deflate", zlib.compress(VISIT)),
        ("deflate", zlib.compress(VISIT, wbits=-15)),
        ("identity", VISIT),
        ("deflate, gzip", gzip_of(zlib.compress(VISIT))),
    ],
)
async def test_encoded_visit_is_accepted(gateway: gateways.RunningGateway, encoding: str, body: bytes) -> None:
    assert (await gateway.post(body, Content_Encoding=encoding)).acknowledges
    assert gateway.counted() == {"visit": 1}


async def test_several_content_encoding_headers_are_stacked(gateway: gateways.RunningGateway) -> None:
    body = gzip_of(zlib.compress(VISIT))
    head = wire.request(gateway.target(), body).partition(b"\r\n\r\n")[0]
    data = head + b"\r\nContent-Encoding: deflate\r\nContent-Encoding: gzip\r\n\r\n" + body
    assert (await wire.exchange(gateway.port, data)).acknowledges
    assert gateway.counted() == {"visit": 1}


@pytest.mark.parametrize("charset", ["utf-16", "UTF-16LE", "utf-32", "iso-8859-1", '"windows-1252"'])
async def test_visit_in_another_charset_is_accepted(gateway: gateways.RunningGateway, charset: str) -> None:
    body = json.dumps({"user": {"id": "é"}}, ensure_ascii=False).encode(charset.strip('"'))
    answer = await gateway.post(body, Content_Type=f"application/json; Charset={charset}")
    assert answer.acknowledges
    assert gateway.counted() == {"visit": 1}


@pytest.mark.parametrize("where", ["host", "path", "token", "asterisk"])
async def test_every_unknown_address_gets_the_same_404(gateway: gateways.RunningGateway, where: str) -> None:
    target, host = gateway.target(), "hooks.test"
    known_404 = await wire.exchange(gateway.port, wire.request("/", VISIT))
    if where == "host":
        host = "other.test"
    elif where == "path":
        target = "/v2" + target[3:]
    elif where == "token":
        target = target[:-1] + ("a" if target[-1] != "a" else "b")
    else:
        target = "*"
    method = "OPTIONS" if where == "asterisk" else "POST"
    answer = await wire.exchange(gateway.port, wire.request(target, VISIT, method, host))
    assert (answer.status, answer.has_header) == (404, False)
    assert answer.without_date == known_404.without_date
    assert gateway.counted() == {"refused:NotFound": 2}
    assert await gateway.meters() == {}


@pytest.mark.parametrize("method", ["DELETE", "TRACE", "PROPFIND", "LOCK"])
async def test_other_methods_get_405(gateway: gateways.RunningGateway, method: str) -> None:
    answer = await wire.exchange(gateway.port, wire.request(gateway.target(), method=method))
    assert (answer.status, answer.has_header) == (405, False)
    assert "POST" in answer.headers["allow"]
    assert gateway.counted() == {"refused:MethodNotAllowed": 1}
    assert await gateway.meters() == {"refused": 1}


async def test_arrival_before_the_first_configuration_gets_503(tmp_path: Path) -> None:
    async with gateways.running(tmp_path, "") as gateway:
        answer = await wire.exchange(gateway.port, wire.request("/v1/token", VISIT))
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

BASIC = gateways.LISTENER.replace(
    "  routes: []", "  authentication: {type: Basic, basic: {secretRef: {name: hook}}}\n  routes: []"
)
HEADER = gateways.LISTENER.replace(
    "  routes: []",
    "  authentication: {type: Header, header: {name: X-Hook-Key, secretRef: {name: hook, key: key}}}\n  routes: []",
)


async def test_basic_authentication_is_checked(tmp_path: Path) -> None:
    manifests = gateways.CLASS + gateways.TENANT + SECRETS + BASIC
    async with gateways.running(tmp_path, manifests) as gateway:
        for given in ({}, {"Authorization": "Basic cHVycGxlOndyb25n"}, {"Authorization": "Bearer x"}):
            answer = await gateway.post(VISIT, **given)
            assert (answer.status, answer.has_header) == (401, False)
            assert answer.headers["www-authenticate"].startswith("Basic ")
        assert (await gateway.post(VISIT, Authorization="Basic cHVycGxlOnMzOmNyZXQ=")).acknowledges
        assert gateway.counted() == {"visit": 1, "refused:Unauthenticated": 3}
        assert await gateway.meters() == {"visits": 1, "refused": 3}


async def test_header_authentication_is_checked(tmp_path: Path) -> None:
    manifests = gateways.CLASS + gateways.TENANT + SECRETS + HEADER
    async with gateways.running(tmp_path, manifests) as gateway:
        assert (await gateway.post(VISIT, X_Hook_Key="key-2")).status == 401
        assert (await gateway.post(VISIT, X_Hook_Key="key-1")).acknowledges


async def test_missing_secret_closes_the_listener(tmp_path: Path) -> None:
    async with gateways.running(tmp_path, gateways.CLASS + gateways.TENANT + BASIC) as gateway:
        answer = await gateway.post(VISIT, Authorization="Basic Og==")
        assert (answer.status, answer.has_header) == (503, False)
        assert gateway.counted() == {"refused:AuthenticationUnresolved": 1}


def _sources(policy: str) -> str:
    fields = f"  allowedSources: {{ranges: [203.0.113.0/24], policy: {policy}}}\n  routes: []"
    return gateways.CLASS + gateways.TENANT + gateways.LISTENER.replace("  routes: []", fields)


async def test_unexpected_source_is_refused_if_enforced(tmp_path: Path) -> None:
    async with gateways.running(tmp_path, _sources("Enforce")) as gateway:
        answer = await gateway.post(VISIT, X_Forwarded_For="203.0.113.5")
        assert (answer.status, answer.has_header) == (403, False)
        assert gateway.counted() == {"refused:SourceNotAllowed": 1}


async def test_unexpected_source_is_only_counted_by_default(tmp_path: Path) -> None:
    async with gateways.running(tmp_path, _sources("Report")) as gateway:
        assert (await gateway.post(VISIT)).acknowledges
        assert gateway.counted() == {"visit": 1}
        assert 'usher_unexpected_sources_total{tenant_namespace="agency",tenant="acme"} 1.0' in gateway.exposition()


async def test_trusted_proxy_names_the_client_address(tmp_path: Path) -> None:
    manifests = _sources("Enforce").replace(
        "  hostname: hooks.test",
        "  hostname: hooks.test\n  clientAddress: {from: XForwardedFor, trustedProxies: [127.0.0.0/8]}",
    )
    async with gateways.running(tmp_path, manifests) as gateway:
        assert (await gateway.post(VISIT, X_Forwarded_For="203.0.113.5")).acknowledges
        assert (await gateway.post(VISIT, X_Forwarded_For="203.0.113.5, 127.0.0.1")).acknowledges
        for forged in ("203.0.113.5, 198.51.100.1", "198.51.100.1", "203.0.113.5, unknown", ""):
            assert (await gateway.post(VISIT, X_Forwarded_For=forged)).status == 403


COMPANY = b'{"user":{"id":1,"venue":{"company":{"id":%s}}}}'


@pytest.mark.parametrize(("check", "word"), [("Warn", "visit"), ("Quarantine", "quarantined"), ("Off", "visit")])
async def test_other_company_is_handled_by_company_check(tmp_path: Path, check: str, word: str) -> None:
    tenant = gateways.TENANT.replace("displayName: Acme", f'companyID: "77", companyCheck: "{check}"')
    async with gateways.running(tmp_path, gateways.CLASS + tenant + gateways.LISTENER) as gateway:
        assert (await gateway.post(COMPANY % b"78")).acknowledges
        assert gateway.counted()[word] == 1
        assert (await gateway.post((COMPANY % b'"77"').replace(b'"id":1,', b'"id":2,'))).acknowledges
        assert gateway.counted()["visit"] == (2 if word == "visit" else 1)


SUSPENDED = gateways.LISTENER.replace("  routes: []", "  state: Suspended\n  routes: []")


async def test_suspended_listener_still_accepts(tmp_path: Path) -> None:
    async with gateways.running(tmp_path, gateways.CLASS + gateways.TENANT + SUSPENDED) as gateway:
        assert (await gateway.post(VISIT)).acknowledges
        assert gateway.counted() == {"visit": 1}


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
            (await wire.exchange(gateway.port, wire.request(address.path, VISIT))).status for address in addresses
        ]
        assert len(set(addresses)) == 3
        assert sorted(statuses) == [200, 200, 404]


async def test_body_that_cannot_be_inflated_is_truncated_too(
    gateway: gateways.RunningGateway,
) -> None:
    assert (await gateway.post(b"x" * 1_000_000, Content_Encoding="br")).acknowledges
    assert gateway.counted() == {"quarantined": 1, "quarantined:Truncated": 1}
    await gateway.gateway.store.flush()
    with contextlib.closing(gateways.connect_to(gateway.gateway.settings.data)) as connection:
        [(kept,)] = connection.execute("select body from bodies").fetchall()
        assert len(encodings.unpack_body(kept)) == 64 * 1024
