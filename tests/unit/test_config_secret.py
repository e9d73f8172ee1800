"""Envelopes are read as they were written, and nothing else is accepted."""

import json
import re

import hypothesis
import msgspec
import pytest
from hypothesis import strategies

from support import config_samples
from usher_gateway import config_secret, documents, model

KEY = model.derive_keys(b"k" * 32).document
OTHER = model.derive_keys(b"o" * 32).document
SECRET = "hunter2-very-secret"
LISTENER = documents.ListenerDocument(
    namespace="acme",
    name="wifi",
    tenant=documents.TenantDocument("hotels", display_name="Hôtel ☃"),
    addresses=(documents.Address("hooks.example.com", "/v1/token"),),
    generation=3,
    routes=(documents.Route("crm", "acme/crm"),),
)
DESTINATION = documents.DestinationDocument("acme", "crm", "https://crm.example.com/", headers=(("X-Key", SECRET),))
OWNER = config_secret.Owner("acme", "wifi", "uid-1")


def content(**changes: object) -> bytes:
    """Return ``config.json`` of the listener with some fields changed; None removes one."""
    value = json.loads(config_secret.encode(config_secret.envelope_of(LISTENER, "uid-1", KEY))) | changes
    return json.dumps({name: part for name, part in value.items() if part is not None}).encode()


@pytest.mark.parametrize("document", [LISTENER, DESTINATION])
def test_document_is_read_as_it_was_written(document: config_secret.Document) -> None:
    envelope = config_secret.envelope_of(document, "uid-1", KEY)
    assert config_secret.decode_data(config_secret.secret_data(envelope), KEY) == envelope


def test_tombstone_keeps_hostnames_that_nobody_can_change() -> None:
    held = config_secret.TenantHostnames("hotels", ("a.example.org", "b.example.org"))
    envelope = config_secret.tombstone_of("Listener", OWNER, 4, "2026-11-25T12:00:00Z", KEY, held=held)
    decoded = config_secret.decode_data(config_secret.secret_data(envelope), KEY)
    assert decoded == envelope
    assert (decoded.document, decoded.identity, decoded.held) == (None, ("Listener", "acme/wifi"), held)
    changed = json.loads(config_secret.encode(envelope)) | {"held": {"tenant": "other", "hostnames": []}}
    with pytest.raises(model.DocumentHashError):
        config_secret.decode(json.dumps(changed).encode(), KEY)


def test_envelope_has_the_documented_form() -> None:
    value = json.loads(config_secret.encode(config_secret.envelope_of(LISTENER, "uid-1", KEY)))
    assert sorted(value) == ["document", "generation", "hash", "kind", "owner", "schemaVersion"]
    assert value["owner"] == {"namespace": "acme", "name": "wifi", "uid": "uid-1"}
    value = json.loads(
        config_secret.encode(config_secret.tombstone_of("Listener", OWNER, 0, "2026-11-25T12:00:00Z", KEY))
    )
    assert sorted(value) == ["generation", "hash", "kind", "owner", "schemaVersion", "tombstone"]


@pytest.mark.parametrize(
    "envelope",
    [
        config_secret.envelope_of(LISTENER, "", KEY),
        config_secret.tombstone_of("Listener", OWNER, 4, "2026-11-25T12:00:00Z", KEY),
    ],
)
def test_another_install_key_neither_configures_nor_removes(envelope: config_secret.Envelope) -> None:
    with pytest.raises(model.DocumentHashError, match="hash") as caught:
        config_secret.decode(config_secret.encode(envelope), OTHER)
    assert "install key" in caught.value.hint


def test_edited_document_is_rejected() -> None:
    changed = json.loads(content())["document"] | {"max_body_bytes": 9}
    with pytest.raises(model.DocumentHashError):
        config_secret.decode(content(document=changed), KEY)


@pytest.mark.parametrize("part", ["name", "uid"])
def test_tombstone_cannot_be_moved_to_another_owner(part: str) -> None:
    value = json.loads(
        config_secret.encode(config_secret.tombstone_of("Listener", OWNER, 4, "2026-11-25T12:00:00Z", KEY))
    )
    value["owner"][part] = "other"
    with pytest.raises(model.DocumentHashError):
        config_secret.decode(json.dumps(value).encode(), KEY)


@pytest.mark.parametrize(
    ("there", "instead"),
    [
        (b'"name":"wifi","namespace"', b'"name":"other","namespace"'),
        (b'"kind":"Listener","owner"', b'"kind":"Destination","owner"'),
        (b'"uid":"u"', b'"uid":"v"'),
        (b'"namespace_uid":"n"', b'"namespace_uid":"m"'),
        (b'"install":"i"', b'"install":"j"'),
    ],
)
def test_document_cannot_be_moved_to_another_owner(there: bytes, instead: bytes) -> None:
    wire = config_secret.encode(config_secret.envelope_of(LISTENER, "u", KEY, install="i", namespace_uid="n"))
    moved = wire.replace(there, instead)
    assert moved != wire
    with pytest.raises(model.DocumentHashError):
        config_secret.decode(moved, KEY)


@pytest.mark.parametrize(
    "data",
    [None, {}, {"other": "e30="}, {"config.json": "***"}, {"config.json": "e30"}, {"config.json": "é"}],
)
def test_secret_without_envelope_is_unreadable(data: dict[str, str] | None) -> None:
    with pytest.raises(model.DocumentUnreadableError):
        config_secret.decode_data(data, KEY)


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 100_000,
        content(document=None),
        content(document=None, tombstone=""),
        content(tombstone="2026-11-25T12:00:00Z"),
        content(kind="Tenant"),
        content(schemaVersion=None),
        content(owner={"namespace": "acme"}),
    ],
)
def test_malformed_envelope_is_unreadable(broken: bytes) -> None:
    with pytest.raises(model.DocumentUnreadableError):
        config_secret.decode(broken, KEY)


def test_newer_document_raises_too_new() -> None:
    later = json.dumps({"schemaVersion": 2, "anything": []}).encode()
    with pytest.raises(model.DocumentTooNewError, match="document has schema version 2"):
        config_secret.decode(later, KEY)


def signed(document: dict[str, object]) -> bytes:
    owner = {"namespace": "acme", "name": "wifi"}
    value = {"schemaVersion": 1, "kind": "Listener", "owner": owner, "generation": 1, "document": document}
    return config_samples.signed(value, KEY)


def test_document_of_an_earlier_release_keeps_its_hash() -> None:
    """It lacks fields that a later release added with a default. Re-encoding it would change its hash."""
    document = json.loads(content())["document"]
    del document["silence_after_seconds"]
    decoded = config_secret.decode(signed(document), KEY)
    assert decoded.document == LISTENER
    assert decoded.hash != config_secret.envelope_of(LISTENER, "", KEY).hash


def test_known_part_of_a_document_of_a_later_release_is_read() -> None:
    """An operator takes it for the last good document after a rollback. A gateway does not run it."""
    document = json.loads(content())["document"] | {"later": {"a": 1}}
    for part in (document["tenant"], *document["addresses"], *document["routes"]):
        part["later"] = [1]
    with pytest.raises(model.DocumentTooNewError, match=r"does not know at `\$\.document"):
        config_secret.decode(signed(document), KEY)
    assert config_secret.decode(signed(document), KEY, known_part=True).document == LISTENER
    document["state"] = "Later"
    with pytest.raises(model.DocumentUnreadableError, match="state"):
        config_secret.decode(signed(document), KEY, known_part=True)


def test_error_names_the_place_and_not_the_value() -> None:
    document = json.loads(content())["document"] | {"state": SECRET}
    with pytest.raises(model.DocumentTooNewError) as caught:
        config_secret.decode(signed(document), KEY)
    assert "$.document.state" in str(caught.value)
    assert SECRET not in str(caught.value) + repr(caught.value) + caught.value.hint
    assert caught.value.__suppress_context__


def test_document_over_the_size_limit_is_refused() -> None:
    large = documents.DestinationDocument("acme", "crm", "https://crm.example.com/", headers=(("X", "y" * 1_100_000),))
    with pytest.raises(model.DocumentTooLargeError, match="at most 1000000") as caught:
        config_secret.encode(config_secret.envelope_of(large, "", KEY))
    assert caught.value.hint


def test_secret_names_are_stable_distinct_and_short() -> None:
    name = config_secret.secret_name("Listener", "acme/wifi")
    assert re.fullmatch(r"listener-[0-9a-f]{32}", name)
    assert name == config_secret.secret_name("Listener", "acme/wifi")
    assert (
        len(
            {name, config_secret.secret_name("Listener", "acme/wifi2"), config_secret.secret_name("Destination", "a/b")}
        )
        == 3
    )
    assert config_secret.secret_type("Destination") == "usher.dev/destination-config"


def test_labels_name_the_install_and_match_the_selector() -> None:
    assert config_secret.labels("usher.dev/usher", "uid-1") == {
        "usher.dev/config": "true",
        "usher.dev/managed": "true",
        "usher.dev/install": "usher.dev_usher",
        "usher.dev/owner-uid": "uid-1",
    }


@hypothesis.given(strategies.text(max_size=300))
def test_every_controller_name_becomes_a_valid_label(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", config_secret.install_label(name))


def test_signed_document_that_is_no_utf8_is_unreadable() -> None:
    raw = msgspec.json.encode(LISTENER, order="sorted").replace(b'"name":"', b'"name":"\xff', 1)
    wire = config_samples.signed(json.loads(content()), KEY, raw)
    for known_part in (False, True):
        with pytest.raises(model.UsherError):
            config_secret.decode(wire, KEY, known_part=known_part)
