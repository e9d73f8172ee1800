"""Documents come into force, stay in force, and are removed."""

import weakref
from typing import Any

import msgspec
import pytest

from support import config_samples
from usher_gateway import config_secret, documents, model
from usher_gateway.config import DocumentStatus, published

WIFI: config_secret.Identity = ("Listener", "acme/wifi")
CRM: config_secret.Identity = ("Destination", "acme/crm")


def accept_all(document: config_secret.Document) -> None:
    del document


def new_state(check: published.DocumentCheck = accept_all) -> published.PublishedDocuments:
    return published.PublishedDocuments(key=config_samples.KEYS.document, check=check)


def running(check: published.DocumentCheck = accept_all) -> published.PublishedDocuments:
    """Return a state in which the sample listener is in force."""
    state = new_state(check)
    put(state, config_samples.secret(config_samples.listener()))
    return state


def put(state: published.PublishedDocuments, secret: published.PublishedSecret) -> published.RejectedDocument | None:
    return state.take(state.decode(secret), 7)


def is_changed(state: published.PublishedDocuments) -> bool:
    return state.is_changed


def lacks_listener(state: published.PublishedDocuments) -> bool:
    return state.lacks_listener


def hash_of(document: config_secret.Document) -> str:
    return config_secret.envelope_of(document, "uid", config_samples.KEYS.document).hash


def garbage(of: config_secret.Document, version: str = "2") -> published.PublishedSecret:
    return msgspec.structs.replace(config_samples.secret(of, version), data={"config.json": "e30="})


def edited(secret: published.PublishedSecret, **changes: Any) -> published.PublishedSecret:
    return msgspec.structs.replace(secret, metadata=msgspec.structs.replace(secret.metadata, **changes))


def test_documents_come_into_force() -> None:
    state = new_state()
    assert put(state, config_samples.secret(config_samples.listener())) is None
    assert put(state, config_samples.secret(config_samples.destination())) is None
    snapshot = state.snapshot()
    assert snapshot.listeners == {"acme/wifi": config_samples.listener()}
    assert snapshot.destinations == {"acme/crm": config_samples.destination()}
    assert state.take_touched() == {
        WIFI: DocumentStatus(hash_of(config_samples.listener())),
        CRM: DocumentStatus(hash_of(config_samples.destination())),
    }
    assert state.take_touched() == {}


def test_unchanged_document_stays_the_same_object() -> None:
    state = running()
    put(state, config_samples.secret(config_samples.destination()))
    earlier = state.snapshot()
    put(state, config_samples.secret(config_samples.listener(), version="2"))
    put(state, config_samples.secret(config_samples.destination(concurrency=3), version="3"))
    assert is_changed(state)
    later = state.snapshot()
    assert later.listeners["acme/wifi"] is earlier.listeners["acme/wifi"]
    assert later.destinations["acme/crm"].concurrency == 3
    assert earlier.destinations["acme/crm"].concurrency == 8


def test_bad_document_leaves_the_last_good_one_in_force() -> None:
    state = running()
    state.snapshot()
    rejected = put(state, garbage(config_samples.listener()))
    assert rejected is not None
    assert (rejected.identity, rejected.code) == (WIFI, "DocumentUnreadable")
    assert not is_changed(state)
    assert state.snapshot().listeners == {"acme/wifi": config_samples.listener()}
    shown = state.take_touched()[WIFI]
    assert shown is not None
    assert shown.hash == hash_of(config_samples.listener())
    assert shown.rejected is not None


def test_rejected_document_lacks_a_listener_if_no_former_version_of_it_is_in_force() -> None:
    state = running()
    put(state, garbage(config_samples.listener()))
    put(state, garbage(config_samples.destination("new")))
    assert not lacks_listener(state)
    put(state, garbage(config_samples.listener("new")))
    assert lacks_listener(state)
    put(state, config_samples.secret(config_samples.listener("new"), version="9"))
    assert not lacks_listener(state)


def test_rejected_document_of_an_unknown_owner_may_lack_a_listener() -> None:
    state = running()
    put(state, edited(garbage(config_samples.listener()), name="stray", annotations={}))
    assert lacks_listener(state)


def test_corrected_document_is_no_longer_rejected() -> None:
    state = new_state()
    put(state, garbage(config_samples.listener()))
    assert len(state.rejected) == 1
    shown = state.take_touched()[WIFI]
    assert shown is not None
    assert shown.hash is None
    put(state, config_samples.secret(config_samples.listener(), version="3"))
    assert len(state.rejected) == 0
    shown = state.take_touched()[WIFI]
    assert shown is not None
    assert shown.rejected is None


def test_owner_that_does_not_fit_the_name_is_ignored() -> None:
    rejected = put(new_state(), edited(garbage(config_samples.listener()), annotations={}))
    assert rejected is not None
    assert rejected.identity is None


def test_document_of_another_install_key_changes_nothing() -> None:
    state = running()
    rejected = put(state, config_samples.tombstone(config_samples.listener(), "2", config_samples.OTHER_KEYS))
    assert rejected is not None
    assert rejected.code == "DocumentHash"
    assert list(state.snapshot().listeners) == ["acme/wifi"]


def test_copy_under_another_name_is_rejected() -> None:
    state = new_state()
    rejected = put(state, edited(config_samples.secret(config_samples.listener()), name="listener-copy"))
    assert rejected is not None
    assert "name" in rejected.message
    assert state.snapshot().listeners == {}


@pytest.mark.parametrize("error", [model.ConfigurationError("bad"), ValueError("s3cret"), KeyError("s3cret")])
def test_rejection_does_not_quote_the_exception(error: Exception) -> None:
    def refuse(document: config_secret.Document) -> None:
        if isinstance(document, documents.ListenerDocument) and document.max_body_bytes == 1:
            raise error

    state = new_state(refuse)
    put(state, config_samples.secret(config_samples.listener()))
    rejected = put(state, config_samples.secret(config_samples.listener(max_body_bytes=1), version="2"))
    assert rejected is not None
    assert "s3cret" not in rejected.message + rejected.hint
    assert state.snapshot().listeners == {"acme/wifi": config_samples.listener()}


def test_tombstone_removes_its_document() -> None:
    state = running()
    put(state, config_samples.secret(config_samples.destination()))
    state.take_touched()
    state.snapshot()
    assert put(state, config_samples.tombstone(config_samples.listener())) is None
    assert is_changed(state)
    assert state.snapshot().listeners == {}
    assert list(state.snapshot().destinations) == ["acme/crm"]
    assert state.take_touched() == {WIFI: None}
    assert state.remove_secret(config_samples.tombstone(config_samples.listener()).metadata.name, 5) is None
    assert state.vanished == {}


@pytest.mark.parametrize("is_made_again", [False, True])
def test_tombstone_of_a_former_object_removes_nothing(*, is_made_again: bool) -> None:
    state, document = running(), config_samples.listener()
    former = config_samples.tombstone(document)
    present = config_samples.secret_of(config_secret.envelope_of(document, "present", config_samples.KEYS.document))
    put(state, present)
    put(state, former)
    put(state, former)
    assert (state.vanished, list(state.snapshot().listeners)) == ({WIFI: 7}, ["acme/wifi"])
    assert state.versions == {former.metadata.name: former.version}
    assert state.vanished_documents[WIFI].owner.uid == "present"
    if is_made_again:
        put(state, present)
        assert (state.vanished, list(state.snapshot().listeners)) == ({}, ["acme/wifi"])


def test_vanished_document_stays_and_is_reported() -> None:
    state = running()
    state.snapshot()
    assert state.remove_secret(config_samples.secret(config_samples.listener()).metadata.name, 7) == WIFI
    assert state.vanished == {WIFI: 7}
    assert not is_changed(state)
    assert list(state.snapshot().listeners) == ["acme/wifi"]
    shown = state.take_touched()[WIFI]
    assert shown is not None
    assert shown.vanished


def test_vanished_document_is_reported_with_its_own_hostnames() -> None:
    state = new_state()
    own = documents.Address("www.example.com", "/own")
    shared = documents.Address("hooks.example.com", "/v1/token", is_class_address=True)
    document = config_samples.listener(addresses=(own, shared))
    put(state, config_samples.secret(document))
    state.remove_secret(config_samples.secret(document).metadata.name, 7)
    hostnames = state.vanished_documents[WIFI].tenant_hostnames
    assert hostnames == config_secret.TenantHostnames(document.tenant.name, ("www.example.com",))


def test_vanished_document_may_return_or_end() -> None:
    for again, count in (
        (config_samples.secret(config_samples.listener()), 1),
        (config_samples.secret(config_samples.listener(max_body_bytes=9), "2"), 1),
        (config_samples.tombstone(config_samples.listener()), 0),
    ):
        state = new_state()
        put(state, config_samples.secret(config_samples.listener()))
        state.remove_secret(again.metadata.name, 7)
        assert not state.is_known(again)
        put(state, again)
        assert state.vanished == {}
        assert len(state.snapshot().listeners) == count


def test_list_without_a_secret_removes_nothing() -> None:
    state = new_state()
    kept, gone = (
        config_samples.secret(config_samples.listener("kept")),
        config_samples.secret(config_samples.listener("gone")),
    )
    put(state, kept)
    put(state, gone)
    assert state.retain({kept.metadata.name}, 7) == [("Listener", "acme/gone")]
    assert state.retain({kept.metadata.name}, 8) == []
    assert sorted(state.snapshot().listeners) == ["acme/gone", "acme/kept"]
    assert state.vanished == {("Listener", "acme/gone"): 7}


HOST = "shop.example"


def at_shop(tenant: str, path: str = "/hook", **changes: object) -> documents.ListenerDocument:
    """A tenant's listener at one hostname; that of tenant `a` comes first by name and is more specific."""
    query = (("x", "1"),) if tenant == "a" else ()
    address = documents.Address(HOST, path, query)
    return config_samples.listener(tenant, tenant=documents.TenantDocument(tenant), addresses=(address,), **changes)


def hosts_of(state: published.PublishedDocuments, *waiting: str) -> dict[str, list[str]]:
    listeners = state.snapshot(waiting).listeners
    return {name.partition("/")[2]: [each.host for each in listener.addresses] for name, listener in listeners.items()}


def test_former_tenant_whose_newer_document_is_not_in_force_loses_the_hostname() -> None:
    former, name = config_samples.secret(at_shop("a")), config_secret.secret_name("Listener", "acme/a")
    for is_rejected in (True, False):
        state = new_state()
        put(state, former)
        if is_rejected:
            put(state, garbage(at_shop("a", generation=2)))
        waiting = [] if is_rejected else [name]
        assert hosts_of(state, *waiting) == {"a": [HOST]}, "nobody else has it"
        put(state, config_samples.secret(at_shop("b")))
        assert hosts_of(state, *waiting) == {"a": [], "b": [HOST]}


def test_hostname_that_moves_there_and_back_is_with_the_former_tenant_again() -> None:
    state = new_state()
    for secret in (config_samples.secret(at_shop("a")), garbage(at_shop("a")), config_samples.secret(at_shop("b"))):
        put(state, secret)
    assert hosts_of(state) == {"a": [], "b": [HOST]}
    put(state, garbage(at_shop("b")))
    put(state, config_samples.secret(at_shop("a"), version="3"))
    assert is_changed(state)
    names = [config_secret.secret_name("Listener", f"acme/{tenant}") for tenant in ("a", "b")]
    assert hosts_of(state) == hosts_of(state, *names) == {"a": [HOST], "b": []}


def test_present_tenant_keeps_the_hostname_while_its_own_edit_waits_or_the_cache_is_read() -> None:
    state = new_state()
    for tenant in ("a", "b"):
        put(state, config_samples.secret(at_shop(tenant)))
    names = [config_secret.secret_name("Listener", f"acme/{tenant}") for tenant in ("a", "b")]
    assert hosts_of(state, *names) == {"a": [], "b": [HOST]}
    restarted = new_state()
    for envelope in state.in_force:
        assert restarted.restore(envelope)
    assert hosts_of(restarted) == {"a": [], "b": [HOST]}


def test_outdated_listener_of_the_same_tenant_keeps_its_other_paths() -> None:
    state = new_state()
    put(state, config_samples.secret(at_shop("b", "/old")))
    put(state, config_samples.secret(msgspec.structs.replace(at_shop("b", "/new"), name="c")))
    assert hosts_of(state, config_secret.secret_name("Listener", "acme/b")) == {"b": [HOST], "c": [HOST]}


@pytest.mark.parametrize("has_former_tombstone", [False, True])
def test_vanished_listener_loses_an_address_that_another_has(*, has_former_tombstone: bool) -> None:
    state = new_state()
    shared, own = documents.Address("hooks.example.com", "/shared"), documents.Address("hooks.example.com", "/own")
    old = config_samples.listener("a-old", addresses=(shared, own))
    if has_former_tombstone:
        put(state, config_samples.secret_of(config_secret.envelope_of(old, "present", config_samples.KEYS.document)))
        put(state, config_samples.tombstone(old))
    else:
        put(state, config_samples.secret(old))
        state.remove_secret(config_samples.secret(old).metadata.name, 7)
    put(state, config_samples.secret(config_samples.listener("new", addresses=(shared,))))
    snapshot = state.snapshot()
    assert snapshot.listeners["acme/a-old"].addresses == (own,)
    assert snapshot.listeners["acme/new"].addresses == (shared,)
    put(state, config_samples.tombstone(config_samples.listener("new")))
    assert state.snapshot().listeners == {"acme/a-old": old}


def test_version_that_was_read_is_known() -> None:
    state = new_state()
    secret = config_samples.secret(config_samples.listener())
    assert not state.is_known(secret)
    put(state, secret)
    assert state.is_known(secret)
    assert not state.is_known(edited(secret, resource_version="2"))


def test_deleted_secret_is_no_longer_rejected() -> None:
    state = new_state()
    secret = garbage(config_samples.listener())
    put(state, secret)
    state.remove_secret(secret.metadata.name, 7)
    assert len(state.rejected) == 0
    assert state.take_touched() == {WIFI: None}


def test_cached_documents_are_in_force_until_the_first_list() -> None:
    state = new_state()
    kept = [
        config_secret.envelope_of(config_samples.listener(name), "uid", config_samples.KEYS.document)
        for name in ("a", "b", "c")
    ]
    assert all(state.restore(envelope) for envelope in kept)
    assert sorted(state.snapshot().listeners) == ["acme/a", "acme/b", "acme/c"]
    put(state, config_samples.secret(config_samples.listener("a")))
    put(state, config_samples.tombstone(config_samples.listener("b")))
    names = {config_samples.secret(config_samples.listener(name)).metadata.name for name in ("a", "b")}
    assert state.retain(names, 7) == [("Listener", "acme/c")]
    assert sorted(state.snapshot().listeners) == ["acme/a", "acme/c"]


@pytest.mark.parametrize("is_cached", [False, True], ids=["read", "cached"])
def test_result_of_the_check_is_kept_while_the_document_is_in_force(*, is_cached: bool) -> None:
    results: list[weakref.ref[set[str]]] = []

    def check(document: config_secret.Document) -> set[str]:
        compiled = {document.name}
        results.append(weakref.ref(compiled))
        return compiled

    state = new_state(check)
    if is_cached:
        state.restore(config_secret.envelope_of(config_samples.listener(), "uid", config_samples.KEYS.document))
    put(state, config_samples.secret(config_samples.listener()))
    put(state, garbage(config_samples.listener()))
    assert [result() for result in results] == [{"wifi"}]
    put(state, config_samples.secret(config_samples.listener(window_seconds=7), version="3"))
    assert [result() for result in results] == [None, {"wifi"}]
    put(state, config_samples.tombstone(config_samples.listener()))
    assert [result() for result in results] == [None, None]


def test_cached_document_that_cannot_be_run_is_left_out() -> None:
    def refuse(document: config_secret.Document) -> None:
        if document.name == "b":
            raise ValueError

    state = new_state(refuse)
    kept = [
        config_secret.envelope_of(config_samples.listener(name), "uid", config_samples.KEYS.document)
        for name in ("a", "b")
    ]
    assert [state.restore(envelope) for envelope in kept] == [True, False]
    assert list(state.snapshot().listeners) == ["acme/a"]


def test_proxies_of_gateway_and_document_are_both_trusted() -> None:
    state = published.PublishedDocuments(
        key=config_samples.KEYS.document, check=accept_all, trusted_proxies=("10.0.0.0/8", "fd00::/8")
    )
    put(state, config_samples.secret(config_samples.listener(trusted_proxies=("192.0.2.0/24", "10.0.0.0/8"))))
    listener = state.snapshot().listeners["acme/wifi"]
    assert listener.trusted_proxies == ("192.0.2.0/24", "10.0.0.0/8", "fd00::/8")
    assert listener.client_address_from == "XForwardedFor"
    [kept] = state.in_force
    assert kept.document == config_samples.listener(trusted_proxies=("192.0.2.0/24", "10.0.0.0/8"))
