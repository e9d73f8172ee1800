import base64
import datetime
import json
from typing import Any

import pytest
import standardwebhooks
import yarl
from hypothesis import given
from hypothesis import strategies as st

from support import delivery_samples
from usher_gateway import documents, model
from usher_gateway.delivery import payload
from usher_gateway.destinations import DestinationRequest

NOW = delivery_samples.RECEIVED_AT + 250_000


def request_for(
    delivery: model.Delivery, transformed: Any = payload.NOT_TRANSFORMED, **changes: Any
) -> DestinationRequest:
    target = payload.prepare(delivery_samples.destination(**changes))
    request = payload.render(target, delivery, delivery_samples.ROUTE, NOW, transformed)
    assert isinstance(request, DestinationRequest)
    return request


def headers_of(request: DestinationRequest) -> dict[str, str]:
    names = [name.lower() for name, _ in request.headers]
    assert len(names) == len(set(names)), "each header once"
    return {name.lower(): value for name, value in request.headers}


@given(st.binary(max_size=200))
def test_verbatim_sends_the_body_unchanged(body: bytes) -> None:
    assert request_for(delivery_samples.delivery(body=body)).body == body


@pytest.mark.parametrize("sent", [b"", b"text/\r\nx-evil: 1", b"t\xe9xt", b"a" * 257, b"a\x00b"])
def test_unusable_content_type_becomes_json(sent: bytes) -> None:
    assert headers_of(request_for(delivery_samples.delivery(content_type=sent)))["content-type"] == "application/json"


def test_request_has_every_promised_header() -> None:
    delivery = delivery_samples.delivery(attempts=2, hops=1, late=True)
    headers = headers_of(request_for(delivery))
    assert headers | {"user-agent": ""} == {
        "webhook-id": model.format_id(delivery.id),
        "webhook-timestamp": str(NOW // 1_000_000),
        "usher-tenant": "acme",
        "usher-listener": "lobby",
        "usher-route": "crm",
        "usher-received-at": "2025-11-25T12:00:00.250Z",
        "usher-visit-time": "2025-11-25T11:59:57.250Z",
        "usher-late": "true",
        "usher-attempt": "3",
        "usher-hops": "2",
        "content-type": "application/json",
        "user-agent": "",
    }


def test_signature_covers_the_sent_body() -> None:
    secret = "whsec_" + base64.b64encode(b"k" * 24).decode()
    now = int(datetime.datetime.now(datetime.UTC).timestamp())
    for form in ("Verbatim", "CloudEvents", "CloudEventsBinary"):
        target = payload.prepare(delivery_samples.destination(format=form, signing_secrets=(secret,)))
        request = payload.render(target, delivery_samples.delivery(), delivery_samples.ROUTE, now * 1_000_000)
        assert isinstance(request, DestinationRequest)
        standardwebhooks.Webhook(secret).verify(request.body, headers_of(request))


def test_destination_may_set_its_headers_content_type_and_user_agent() -> None:
    static = (("Authorization", "Bearer s3cret"), ("User-Agent", "mine"))
    headers = headers_of(request_for(delivery_samples.delivery(), headers=static, content_type="text/plain"))
    assert headers["authorization"] == "Bearer s3cret"
    assert (headers["content-type"], headers["user-agent"]) == ("text/plain", "mine")


TEMPLATE = "https://mail.example/lists/{list}/members/{member}?key={key}"
VARIABLES = (
    documents.UrlVariable("list", "visit.venueId"),
    documents.UrlVariable("member", "md5(visit.email)"),
    documents.UrlVariable("key", secret="s+c/é"),
)


def expanded(**values: object) -> DestinationRequest | payload.FormatError:
    target = payload.prepare(delivery_samples.destination(url=TEMPLATE, url_variables=VARIABLES))
    delivery = delivery_samples.delivery()
    return payload.render(target, delivery, delivery_samples.ROUTE, 0, payload.NOT_TRANSFORMED, values)


def test_variables_of_a_url_are_percent_encoded() -> None:
    request = expanded(list="a b/ü?#&{key}", member=7)
    assert isinstance(request, DestinationRequest)
    assert request.url == "https://mail.example/lists/a%20b%2F%C3%BC%3F%23%26%7Bkey%7D/members/7?key=s%2Bc%2F%C3%A9"
    assert request.is_url_secret


@pytest.mark.parametrize("value", ["", "..", ".", "x" * 513])
def test_variable_that_could_change_the_path_is_refused(value: object) -> None:
    assert expanded(list="1", member=value) == payload.FormatError("UrlVariableNotUsable")


@given(st.text(max_size=20), st.text(max_size=20))
def test_variables_never_leave_their_place(first: str, second: str) -> None:
    request = expanded(list=first, member=second)
    if isinstance(request, DestinationRequest):
        path = yarl.URL(request.url).raw_path.split("/")
        assert path[:2] + path[3:4] == ["", "lists", "members"]
        assert len(path) == 5
        assert yarl.URL(request.url).host == "mail.example"


def test_form_sends_a_flat_document() -> None:
    document = {"e-mail": "jane+wifi@example.com", "n": 3, "vip": True, "gender": None, "name": "Ödegård & Co"}
    request = request_for(delivery_samples.delivery(), document, format="Form")
    assert request.body == b"e-mail=jane%2Bwifi%40example.com&n=3&vip=true&gender=&name=%C3%96deg%C3%A5rd+%26+Co"
    assert headers_of(request)["content-type"] == "application/x-www-form-urlencoded"


@pytest.mark.parametrize("document", [payload.NOT_TRANSFORMED, [1], "text", {"a": {"b": 1}}, {"a": [1]}])
def test_form_of_something_else_is_held(document: Any) -> None:
    target = payload.prepare(delivery_samples.destination(format="Form"))
    rendered = payload.render(target, delivery_samples.delivery(), delivery_samples.ROUTE, 0, document)
    assert rendered == payload.FormatError("DocumentNotFlat")


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\nb", "a\rb", "a\0b", " a", "a ", "a\x7f", "\x1b[0m", "a\ud800b"])
def test_unsafe_header_value_is_rejected_without_being_shown(value: str) -> None:
    with pytest.raises(model.ConfigurationError, match="x-key") as caught:
        payload.prepare(delivery_samples.destination(headers=(("X-Key", value),)))
    assert value.strip() not in str(caught.value) or value.strip() == "a"


@pytest.mark.parametrize(
    "name", ["", "a b", "a:b", "a\r\nb", "Host", "content-length", "Content-Type", "Webhook-Id", "usher-x", "ce-id"]
)
def test_invalid_or_reserved_header_name_is_rejected(name: str) -> None:
    with pytest.raises(model.ConfigurationError):
        payload.prepare(delivery_samples.destination(headers=((name, "1"),)))


@given(st.text(max_size=20))
def test_accepted_header_value_stays_in_one_line(value: str) -> None:
    try:
        request = request_for(delivery_samples.delivery(), headers=(("X-Key", value),))
    except model.ConfigurationError:
        return
    head = "".join([f"{name}: {value}\r\n" for name, value in request.headers]).encode()
    assert len(head.splitlines()) == len(request.headers)
    assert b"\0" not in head


def test_transform_sends_its_value_as_json() -> None:
    request = request_for(delivery_samples.delivery(), {"to": "jane@example.com", "n": None})
    assert json.loads(request.body) == {"to": "jane@example.com", "n": None}
    assert headers_of(request)["content-type"] == "application/json"


def test_transform_may_evaluate_to_null() -> None:
    assert request_for(delivery_samples.delivery(), None).body == b"null"


@pytest.mark.parametrize("value", [{"a": object()}, "\ud800", {1.5j: 1}, [{"x": {1, object()}}]])
def test_transform_value_without_json_form_is_a_format_error(value: object) -> None:
    target = payload.prepare(delivery_samples.destination())
    result = payload.render(target, delivery_samples.delivery(), delivery_samples.ROUTE, NOW, value)
    assert result == payload.FormatError("TransformNotJSON")


def test_structured_event_has_required_attributes_and_data() -> None:
    body = b'{"user":{"id":7.10, "n":123456789012345678901234567890}}'
    delivery = delivery_samples.delivery(body=body)
    request = request_for(delivery, format="CloudEvents")
    event = json.loads(request.body)
    assert headers_of(request)["content-type"] == "application/cloudevents+json"
    assert event["specversion"] == "1.0"
    assert event["id"] == model.format_id(delivery.id)
    assert event["source"] == "/agency/acme/lobby"
    assert event["type"] == "dev.usher.visit"
    assert event["datacontenttype"] == "application/json"
    assert datetime.datetime.fromisoformat(event["time"]).timestamp() == delivery.visit_time / 1_000_000
    assert event["data"] == json.loads(body)
    assert body in request.body, "numbers and spaces as sent"


@pytest.mark.parametrize("form", ["CloudEvents", "CloudEventsBinary"])
def test_event_attributes_contain_no_personal_data(form: str) -> None:
    request = request_for(delivery_samples.delivery(), format=form)
    text = str(request.headers)
    if form == "CloudEvents":
        text += str({name: value for name, value in json.loads(request.body).items() if name != "data"})
    assert "jane" not in text


@pytest.mark.parametrize("body", [b"\x00\xff", b"not json", b'{"a":NaN}', b"", b'{"a":1}x', b'"\xff"'])
def test_structured_event_encodes_other_content_in_base64(body: bytes) -> None:
    event = json.loads(request_for(delivery_samples.delivery(body=body), format="CloudEvents").body)
    assert base64.b64decode(event["data_base64"]) == body
    assert "data" not in event


@pytest.mark.parametrize(
    ("body", "data"),
    [(b'\xef\xbb\xbf{"a":1}', {"a": 1}), ('{"a":"é"}'.encode("utf-16"), {"a": "é"}), (b'"\\ud800"', "\ud800")],
)
def test_structured_event_accepts_lenient_json(body: bytes, data: object) -> None:
    assert json.loads(request_for(delivery_samples.delivery(body=body), format="CloudEvents").body)["data"] == data


def test_binary_event_has_attributes_as_headers_and_the_body_unchanged() -> None:
    delivery = delivery_samples.delivery(body=b'{"a": 1}', late=True)
    request = request_for(delivery, format="CloudEventsBinary")
    headers = headers_of(request)
    assert request.body == b'{"a": 1}'
    assert headers["content-type"] == "application/json"
    assert headers["ce-specversion"] == "1.0"
    assert headers["ce-id"] == headers["webhook-id"]
    assert headers["ce-source"] == "/agency/acme/lobby"
    assert headers["ce-type"] == "dev.usher.visit"
    assert headers["ce-time"] == "2025-11-25T11:59:57.250Z"
    assert headers["ce-usherlate"] == "true"
    assert "ce-datacontenttype" not in headers


@pytest.mark.parametrize(
    ("body", "content_type", "sent"),
    [
        (b'{"a": 1}', b"application/json;charset=UTF-8", b'{"a": 1}'),
        (b'\xef\xbb\xbf{"a":1}', b"application/json", b'{"a":1}'),
        ('{"a":1}'.encode("utf-16"), b"application/json; charset=utf-16", b'{"a":1}'),
    ],
)
def test_binary_event_sends_json_as_utf_8(body: bytes, content_type: bytes, sent: bytes) -> None:
    request = request_for(delivery_samples.delivery(body=body, content_type=content_type), format="CloudEventsBinary")
    assert request.body == sent
    assert headers_of(request)["content-type"] == "application/json"


def test_binary_event_sends_other_content_unchanged() -> None:
    delivery = delivery_samples.delivery(body=b"\xffnot json", content_type=b"text/plain; charset=latin-1")
    request = request_for(delivery, format="CloudEventsBinary")
    assert request.body == b"\xffnot json"
    assert headers_of(request)["content-type"] == "text/plain; charset=latin-1"


def test_binary_event_header_is_percent_encoded() -> None:
    route = model.RouteDefinition(model.ListenerName("agency", "acme", "lobby"), 'Euro € "50%" x', "agency/crm")
    target = payload.prepare(delivery_samples.destination(format="CloudEventsBinary"))
    request = payload.render(target, delivery_samples.delivery(), route, NOW)
    assert isinstance(request, DestinationRequest)
    assert headers_of(request)["ce-usherroute"] == "Euro%20%E2%82%AC%20%2250%25%22%20x"


def test_event_of_a_transformed_visit_contains_the_transform_value() -> None:
    event = json.loads(request_for(delivery_samples.delivery(), {"x": 1}, format="CloudEvents").body)
    assert event["data"] == {"x": 1}


WEBHOOK_ID = "0193f5a0-0000-7000-8000-000000000001"


def verify(secret: str, timestamp: int, body: bytes, signature: str) -> None:
    headers = {"webhook-id": WEBHOOK_ID, "webhook-timestamp": str(timestamp), "webhook-signature": signature}
    standardwebhooks.Webhook(secret).verify(body, headers)


def now() -> int:
    return int(datetime.datetime.now(datetime.UTC).timestamp())


@given(st.binary(min_size=1, max_size=64), st.dictionaries(st.text(max_size=5), st.integers(), max_size=5))
def test_standardwebhooks_library_accepts_the_signature(key: bytes, document: dict[str, int]) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    body = json.dumps(document).encode()
    verify(secret, now(), body, payload.signature([payload.signing_key(secret)], WEBHOOK_ID, now(), body))


def test_plain_text_secret_signs_with_its_bytes() -> None:
    signature = payload.signature([payload.signing_key("correct horse")], WEBHOOK_ID, now(), b'{"a":1}')
    verify("whsec_" + base64.b64encode(b"correct horse").decode(), now(), b'{"a":1}', signature)


def test_rotating_secrets_are_both_accepted() -> None:
    secrets = ["whsec_" + base64.b64encode(name * 8).decode() for name in (b"new!", b"old!")]
    signature = payload.signature([payload.signing_key(secret) for secret in secrets], WEBHOOK_ID, now(), b"{}")
    assert signature.count(" ") == 1
    for secret in secrets:
        verify(secret, now(), b"{}", signature)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_%%%", "whsec_QUJ"])
def test_unusable_secret_is_rejected_without_being_shown(secret: str) -> None:
    with pytest.raises(ValueError, match="a signing secret") as caught:
        payload.signing_key(secret)
    assert secret in ("", "whsec_") or secret not in str(caught.value)


def test_request_to_erase_has_a_document_a_mark_and_a_signature() -> None:
    secret = "whsec_" + base64.b64encode(b"k" * 24).decode()
    call = documents.ErasureCall("Email", "https://crm.example/erase", method="PUT", transform="visit")
    target = payload.prepare(
        delivery_samples.destination(
            signing_secrets=(secret,), content_type="application/vnd.api+json", headers=(("x-key", "7"),)
        )
    )
    now = int(datetime.datetime.now(datetime.UTC).timestamp()) * 1_000_000
    request = payload.render_erasure(target, call, "msg_1", now, {"email": "ada@example.org"}, {})
    assert isinstance(request, DestinationRequest)
    headers = headers_of(request)
    standardwebhooks.Webhook(secret).verify(request.body, headers)
    assert (request.method, request.url, json.loads(request.body)) == ("PUT", call.url, {"email": "ada@example.org"})
    assert (headers["usher-erasure"], headers["content-type"], headers["x-key"]) == (
        "true",
        "application/vnd.api+json",
        "7",
    )


def test_request_to_erase_without_a_value_in_its_url_is_not_made() -> None:
    variables = (documents.UrlVariable("person", "visit.email"),)
    call = documents.ErasureCall("Email", "https://crm.example/{person}", url_variables=variables)
    target = payload.prepare(delivery_samples.destination())
    rendered = payload.render_erasure(target, call, "msg_1", NOW, payload.NOT_TRANSFORMED, {"person": ""})
    assert rendered == payload.FormatError("UrlVariableNotUsable")
