"""Access tokens: one request at a time, renewed in time, and no flood while the token endpoint fails."""

import asyncio
import json
import urllib.parse
from typing import Any, cast

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from joserfc import jwk, jwt

from support import certificates, delivery_samples
from usher_gateway import documents
from usher_gateway.destinations import DestinationAnswer, DestinationRequest, SendError, oauth
from usher_gateway.destinations.oauth import TokenKeyError, token_form
from usher_gateway.destinations.sending import Sender

TOKEN_URL = "https://login.example/token"
CLIENT = documents.OAuth2("ClientCredentials", TOKEN_URL, ("a", "b"), client_id="id:1", client_secret="s/word")
NOW = 1_800_000_000


RSA_KEY = certificates.key_pem(rsa.generate_private_key(65537, 2048))
EC_KEY = certificates.key_pem(ec.generate_private_key(ec.SECP256R1()))
# A key with the curve secp160r1.
RARE_CURVE_KEY = """\
-----BEGIN PRIVATE KEY-----
MGECAQAwEAYHKoZIzj0CAQYFK4EEAAgESjBIAgEBBBUAojIpjNeCB8DtO5QpMwrz
DQdUudihLAMqAARtuFaC1Sg32vsyx758x+G+yH/KRBJ2RNbmfSqsIoDe2KREeoE8
fn7Y
-----END PRIVATE KEY-----
"""
BEARER = documents.OAuth2("JWTBearer", TOKEN_URL, ("a", "b"), issuer="me@x", private_key=RSA_KEY, key_id="k1")


class Peers:
    """A token endpoint that numbers its tokens, and a destination that accepts only the newest."""

    def __init__(self) -> None:
        self.now = 0.0
        self.token_requests: list[DestinationRequest] = []
        self.visits: list[str] = []
        self.token_answer: DestinationAnswer | None = None
        self.life: object = 3600
        self.refuses_all = False
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def send(self, request: DestinationRequest, timeout_seconds: float) -> DestinationAnswer:
        del timeout_seconds
        if request.url == TOKEN_URL:
            self.token_requests.append(request)
            await self.may_answer.wait()
            told = {"access_token": f"t{len(self.token_requests)}", "token_type": "Bearer", "expires_in": self.life}
            return self.token_answer or DestinationAnswer(200, {}, json.dumps(told).encode())
        if request.may_send is not None and not request.may_send():
            return DestinationAnswer(is_withdrawn=True)
        token = dict(request.headers)["authorization"].removeprefix("Bearer ")
        self.visits.append(token)
        is_newest = token == f"t{len(self.token_requests)}" and not self.refuses_all
        return DestinationAnswer(200 if is_newest else 401)


@pytest.fixture
def peers() -> Peers:
    return Peers()


@pytest.fixture
def sender(peers: Peers) -> Sender:
    return Sender(cast("Any", peers), now=lambda: peers.now)


def visit(url: str = "https://crm.example/in") -> DestinationRequest:
    return DestinationRequest("POST", url, [("webhook-id", "1")], b"{}")


async def send(sender: Sender, oauth2: documents.OAuth2 = CLIENT) -> DestinationAnswer:
    return await sender.send(visit(), delivery_samples.destination(oauth2=oauth2))


def form_of(request: DestinationRequest) -> dict[str, str]:
    return dict(urllib.parse.parse_qsl(request.body.decode(), strict_parsing=True))


async def test_client_credentials_are_sent_as_rfc_6749_says(sender: Sender, peers: Peers) -> None:
    assert (await send(sender)).status == 200
    (request,) = peers.token_requests
    assert form_of(request) == {"grant_type": "client_credentials", "scope": "a b"}
    assert dict(request.headers)["authorization"] == "Basic aWQlM0ExOnMlMkZ3b3Jk"  # id%3A1:s%2Fword
    in_form = msgspec.structs.replace(CLIENT, client_authentication="Form")
    assert token_form(in_form, NOW) == {
        "grant_type": "client_credentials",
        "scope": "a b",
        "client_id": "id:1",
        "client_secret": "s/word",
    }


def test_jwt_bearer_signs_an_assertion() -> None:
    form = token_form(BEARER, NOW)
    assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    decoded = jwt.decode(form["assertion"], jwk.RSAKey.import_key(RSA_KEY))
    assert decoded.header == {"alg": "RS256", "kid": "k1", "typ": "JWT"}
    assert decoded.claims == {"iss": "me@x", "aud": TOKEN_URL, "iat": NOW, "exp": NOW + 300, "scope": "a b"}
    other = msgspec.structs.replace(BEARER, subject="you@x", audience="https://aud.example", scopes=(), key_id="")
    decoded = jwt.decode(token_form(other, NOW)["assertion"], jwk.RSAKey.import_key(RSA_KEY))
    assert decoded.claims["sub"] == "you@x"
    assert decoded.claims["aud"] == "https://aud.example"


@pytest.mark.parametrize("key", ["", "nonsense", EC_KEY, RARE_CURVE_KEY, RSA_KEY[:200]])
async def test_key_that_cannot_be_used_is_an_error_without_its_text(key: str, sender: Sender, peers: Peers) -> None:
    bad = msgspec.structs.replace(BEARER, private_key=key)
    with pytest.raises(TokenKeyError) as raised:
        token_form(bad, NOW)
    assert str(raised.value) == ""
    assert (await send(sender, bad)).error is SendError.TokenKeyInvalid
    assert peers.token_requests == []


async def test_tokens_of_destinations_that_are_gone_are_forgotten(sender: Sender) -> None:
    await send(sender)
    sender.tokens.keep_only({"agency/crm"})
    assert sender.tokens.current("agency/crm") == "t1"
    sender.tokens.keep_only(())
    assert sender.tokens.current("agency/crm") == ""


async def test_signature_is_charged(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oauth, "ORDINARY_SECONDS", 0.0)
    charged: list[float] = []
    assert (await sender.tokens.get(delivery_samples.destination(oauth2=BEARER), 30, charged.append)) == "t1"
    assert [seconds > 0 for seconds in charged] == [True]


async def test_all_deliveries_share_one_token_and_one_request_for_it(sender: Sender, peers: Peers) -> None:
    peers.may_answer.clear()
    sending = [asyncio.ensure_future(send(sender)) for _ in range(20)]
    await asyncio.sleep(0)
    peers.may_answer.set()
    assert {answer.status for answer in await asyncio.gather(*sending)} == {200}
    assert len(peers.token_requests) == 1
    assert peers.visits == ["t1"] * 20


@pytest.mark.parametrize(
    ("life", "renewed_after"),
    [(3600, 3540.0), ("3600", 3540.0), (100, 90.0), (None, 270.0), ("soon", 270.0), (1e9, 86340.0)],
)
async def test_token_is_renewed_before_it_ends(
    life: object, renewed_after: float, sender: Sender, peers: Peers
) -> None:
    peers.life = life
    await send(sender)
    peers.now = renewed_after - 0.5
    await send(sender)
    assert len(peers.token_requests) == 1
    peers.now = renewed_after
    await send(sender)
    assert peers.visits == ["t1", "t1", "t2"]


async def test_refused_token_is_replaced_once(sender: Sender, peers: Peers) -> None:
    await send(sender)
    peers.refuses_all = True
    assert (await send(sender)).status == 401
    assert peers.visits == ["t1", "t1", "t2"]
    assert len(peers.token_requests) == 2
    assert sender.tokens.current("agency/crm") == "t2"  # the answer may repeat it


async def test_changed_credentials_get_a_token_of_their_own(sender: Sender, peers: Peers) -> None:
    await send(sender)
    await send(sender, msgspec.structs.replace(CLIENT, client_secret="other"))
    assert peers.visits == ["t1", "t2"]


async def test_changed_credentials_never_get_the_token_that_is_being_obtained_for_others(sender: Sender) -> None:
    other = msgspec.structs.replace(CLIENT, client_secret="other")
    former, newer = (delivery_samples.destination(oauth2=oauth2) for oauth2 in (CLIENT, other))
    tokens = await asyncio.gather(sender.tokens.get(former, 10.0), sender.tokens.get(newer, 10.0))
    assert set(tokens) == {"t1", "t2"}


async def test_refused_request_counts_if_it_may_not_be_sent_again(sender: Sender, peers: Peers) -> None:
    peers.refuses_all = True
    request = visit()
    request.may_send = lambda: not peers.visits
    answer = await sender.send(request, delivery_samples.destination(oauth2=CLIENT))
    assert (answer.status, answer.is_withdrawn, peers.visits) == (401, False, ["t1"])


async def test_token_of_4_kib_is_used(sender: Sender, peers: Peers) -> None:
    peers.token_answer = DestinationAnswer(200, {}, b'{"access_token":"%s"}' % (b"a" * 4096))
    assert await sender.tokens.get(delivery_samples.destination(oauth2=CLIENT), 10.0) == "a" * 4096


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (DestinationAnswer(error=SendError.Timeout), SendError.TokenUnavailable),
        (DestinationAnswer(error=SendError.AddressForbidden), SendError.TokenUnavailable),
        (DestinationAnswer(503), SendError.TokenUnavailable),
        (DestinationAnswer(429), SendError.TokenUnavailable),
        (DestinationAnswer(400, {}, b'{"error":"invalid_client"}'), SendError.TokenRefused),
        (DestinationAnswer(302), SendError.TokenRefused),
        (DestinationAnswer(200, {}, b"<html>"), SendError.TokenRefused),
        (DestinationAnswer(200, {}, b'{"access_token":"a b"}'), SendError.TokenRefused),
        (DestinationAnswer(200, {}, b'{"access_token":"a\\r\\nx: y"}'), SendError.TokenRefused),
        (DestinationAnswer(200, {}, b'{"access_token":""}'), SendError.TokenRefused),
        (DestinationAnswer(200, {}, b'{"access_token":"%s"}' % (b"a" * 4097)), SendError.TokenRefused),
        (DestinationAnswer(200, {}, b'{"access_token":"a","token_type":"mac"}'), SendError.TokenRefused),
        (DestinationAnswer(200, {}, b'{"access_token":"a"}', is_complete=False), SendError.TokenRefused),
    ],
)
async def test_endpoint_without_a_token_fails_attempts_and_gets_no_flood(
    answer: DestinationAnswer, error: SendError, sender: Sender, peers: Peers
) -> None:
    peers.token_answer = answer
    for _ in range(100):
        assert (await send(sender)).error is error
        peers.now += 1.0
    assert len(peers.token_requests) == 5  # after 0, 5, 15, 35 and 75 seconds
    assert peers.visits == []
    peers.token_answer = None
    peers.now += 60.0
    assert (await send(sender)).status == 200


async def test_attempt_waits_for_a_token_no_longer_than_it_may_take(peers: Peers) -> None:
    sender = Sender(cast("Any", peers))
    peers.may_answer.clear()
    destination = delivery_samples.destination(oauth2=CLIENT, timeout_seconds=0)
    assert (await sender.send(visit(), destination)).error is SendError.TokenUnavailable
    peers.may_answer.set()
    assert (await send(sender)).status == 200
    assert len(peers.token_requests) == 1
