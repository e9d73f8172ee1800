from usher_gateway import model
from usher_gateway.config import files
from usher_gateway.resources import compiler
from usher_gateway.resources.manifests import load_manifests, merge_manifests

OPTIONS = compiler.CompileContext(
    keys=model.derive_keys(bytes(32)), allow_implicit_class=True, require_watch_label=False
)
TENANT = "apiVersion: usher.dev/v1alpha1\nkind: Tenant\nmetadata: {name: acme}\n"


def listeners(count: int, first: int = 0) -> str:
    return "".join(
        f"---\napiVersion: usher.dev/v1alpha1\nkind: Listener\nmetadata: {{name: l{number}}}\n"
        "spec: {tenantRef: {name: acme}}\n"
        for number in range(first, first + count)
    )


def after(before: files.FileConfiguration, *texts: str, gaps: tuple[str, ...] = ()) -> files.FileConfiguration:
    parts = [load_manifests(text.encode(), f"d/{index}.yaml") for index, text in enumerate(texts)]
    return files.apply_reading(before, merge_manifests(parts), gaps, OPTIONS, lambda file: (0, file))


def test_invalid_object_keeps_its_last_good_version() -> None:
    before = after(files.NO_CONFIGURATION, TENANT + listeners(1), listeners(1, first=1))
    suspended = listeners(1, first=1).replace("spec: {", "spec: {state: Suspended, ")
    now = after(before, TENANT + listeners(1).replace("tenantRef", "tenantref"), suspended)
    assert now.snapshot.listeners["default/l0"] is before.snapshot.listeners["default/l0"]
    assert now.snapshot.listeners["default/l1"].state == "Suspended"
    assert {found.path for found in now.rejected} == {"spec.tenantref"}


def test_problem_names_the_mistake_that_caused_it() -> None:
    destination = (
        "---\napiVersion: usher.dev/v1alpha1\nkind: Destination\nmetadata: {name: crm}\n"
        "spec: {type: HTTP, http: {url: 'https://crm.example/', headers: [{name: X, valueFrom: {secretKeyRef: "
        "{name: keys, key: a}}}]}}\n"
    )
    secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: keys}\ndata: {a: '!'}\n"
    good = secret.replace("!", "eA==")
    routes = listeners(1).replace("}}", "}, routes: [{name: a, destinationRef: {name: crm}}]}")
    for broken, cause in (
        ((TENANT + "spec: {state: x}\n", routes, destination, good), {"Tenant default/acme"}),
        ((TENANT, routes, destination.replace("type: HTTP", "type: Mail"), secret), {"Destination default/crm"}),
        ((TENANT, routes, destination, secret), {"Secret default/keys"}),
        ((TENANT, routes, "a: [\n"), {"d/2.yaml:2"}),
        ((TENANT, routes), {""}),
    ):
        found = after(files.NO_CONFIGURATION, *broken).problems
        assert {one.because for one in found if one.reason.endswith("NotFound")} == cause


def test_hint_names_similar_name_or_other_namespace() -> None:
    text = listeners(1).replace("acme", "acm")
    assert [one.hint for one in after(files.NO_CONFIGURATION, TENANT + text).rejected] == ["did you mean `acme`?"]
    elsewhere = TENANT.replace("acme", "acme, namespace: hotels")
    (found,) = after(files.NO_CONFIGURATION, elsewhere + listeners(1)).rejected
    assert "namespace `hotels`" in found.hint


CLASS = (
    "---\napiVersion: usher.dev/v1alpha1\nkind: ListenerClass\nmetadata: {name: public}\n"
    "spec: {controllerName: usher.dev/usher, hostname: hooks.example}\n"
)


def test_unknown_class_is_a_problem_with_a_hint() -> None:
    named = TENANT + listeners(1).replace("spec: {", "spec: {listenerClassName: publix, ")
    (found,) = after(files.NO_CONFIGURATION, named + CLASS).rejected
    assert (found.path, found.hint) == ("spec.listenerClassName", "did you mean `public`?")
    without = after(files.NO_CONFIGURATION, named)
    assert [one.severity for one in without.problems] == ["notice", "warning"]
    assert "publix" in without.problems[1].message
    assert without.snapshot.listeners["default/l0"].addresses[0].host == "localhost"
    plain = TENANT + listeners(1).replace("spec: {", "spec: {listenerClassName: public, ")
    assert [one.severity for one in after(files.NO_CONFIGURATION, plain).problems] == ["notice"]


def test_invalid_class_does_not_move_listeners() -> None:
    now = after(files.NO_CONFIGURATION, TENANT + listeners(2) + CLASS.replace("hostname", "hostnam"))
    assert now.snapshot.listeners == {}
    assert {one.because for one in now.rejected} == {"", "ListenerClass public"}
    running = after(files.NO_CONFIGURATION, TENANT + listeners(2))
    later = after(running, TENANT + listeners(3) + CLASS.replace("hostname", "hostnam"))
    assert {one.addresses[0].host for one in later.snapshot.listeners.values()} == {"localhost"}
    assert len(later.snapshot.listeners) == 3


def test_missing_object_is_removed() -> None:
    before = after(files.NO_CONFIGURATION, TENANT + listeners(3))
    assert list(after(before, TENANT + listeners(2)).snapshot.listeners) == ["default/l0", "default/l1"]


def test_unparsable_file_stops_every_removal() -> None:
    before = after(files.NO_CONFIGURATION, TENANT + listeners(2), listeners(2, first=2))
    now = after(before, TENANT + listeners(1), listeners(1, first=2) + "---\n}")
    assert now.snapshot.listeners.keys() == before.snapshot.listeners.keys()
    assert not now.complete


def test_gap_stops_only_its_own_removals() -> None:
    before = after(files.NO_CONFIGURATION, TENANT + listeners(2), listeners(1, first=2))
    now = after(before, TENANT + listeners(1), gaps=("d/1.yaml",))
    assert sorted(now.snapshot.listeners) == ["default/l0", "default/l2"]


def test_removed_tenant_removes_its_listeners() -> None:
    before = after(files.NO_CONFIGURATION, TENANT + listeners(3))
    assert after(before, listeners(3).removeprefix("---\n")).snapshot.listeners == {}


def test_large_removal_is_halted_while_edits_go_on() -> None:
    before = after(files.NO_CONFIGURATION, TENANT + listeners(20))
    edited = listeners(1).replace("spec: {", "spec: {state: Suspended, ")
    now = after(before, TENANT + edited + listeners(1, first=50))
    assert len(now.snapshot.listeners) == 21
    assert now.snapshot.listeners["default/l0"].state == "Suspended"
    assert now.halted is not None
    assert len(now.halted.names) == 19
    assert any(now.halted.digest in found.hint for found in now.rejected)
    again = after(now, TENANT + edited + listeners(1, first=50))
    assert again.halted == now.halted


def test_halted_removal_is_confirmed_only_by_its_digest() -> None:
    before = after(files.NO_CONFIGURATION, TENANT + listeners(20))
    halted = after(before, TENANT + listeners(2))
    assert halted.halted is not None
    annotated = (
        "---\napiVersion: usher.dev/v1alpha1\nkind: ListenerClass\n"
        'metadata: {name: public, annotations: {usher.dev/confirm-removals: "HASH"}}\n'
        "spec: {controllerName: usher.dev/usher, hostname: localhost}\n"
    )
    wrong = after(halted, TENANT + listeners(2) + annotated.replace("HASH", "0" * 12))
    assert len(wrong.snapshot.listeners) == 20
    right = after(wrong, TENANT + listeners(2) + annotated.replace("HASH", halted.halted.digest))
    assert sorted(right.snapshot.listeners) == ["default/l0", "default/l1"]
    assert right.halted is None


def test_removed_last_class_does_not_move_listeners() -> None:
    declared = (
        "---\napiVersion: usher.dev/v1alpha1\nkind: ListenerClass\nmetadata: {name: public}\n"
        "spec: {controllerName: usher.dev/usher, hostname: hooks.example.com}\n"
    )
    before = after(files.NO_CONFIGURATION, TENANT + listeners(2) + declared)
    now = after(before, TENANT + listeners(2))
    assert now.snapshot == before.snapshot
    assert now.snapshot.listeners["default/l0"].addresses[0].host == "hooks.example.com"


def test_five_listeners_or_a_tenth_may_be_removed_at_once() -> None:
    few = after(files.NO_CONFIGURATION, TENANT + listeners(5))
    assert after(few, TENANT).snapshot.listeners == {}
    many = after(files.NO_CONFIGURATION, TENANT + listeners(100))
    assert len(after(many, TENANT + listeners(90)).snapshot.listeners) == 90
    assert len(after(many, TENANT + listeners(89)).snapshot.listeners) == 100


def test_kept_listener_loses_an_address_that_is_taken() -> None:
    def explicit(name: str) -> str:
        return (
            f"---\napiVersion: usher.dev/v1alpha1\nkind: Listener\nmetadata: {{name: {name}}}\nspec: {{tenantRef: "
            "{name: acme}, authentication: {type: None}, addresses: [{name: a, hostname: x.example, path: /x}]}\n"
        )

    before = after(files.NO_CONFIGURATION, TENANT + listeners(20) + explicit("old"))
    now = after(before, TENANT + explicit("new"))
    assert now.halted is not None
    assert "default/new" in now.snapshot.listeners
    assert "default/old" not in now.snapshot.listeners


def test_kept_object_keeps_its_place_and_its_hostname() -> None:
    other = TENANT.replace("acme", "other")

    def claiming(name: str, tenant: str) -> str:
        return (
            f"---\napiVersion: usher.dev/v1alpha1\nkind: Listener\nmetadata: {{name: {name}}}\n"
            f"spec: {{tenantRef: {{name: {tenant}}}, addresses: [{{name: a, hostname: x.example}}]}}\n"
        )

    before = after(files.NO_CONFIGURATION, TENANT + claiming("first", "acme"), other + claiming("second", "other"))
    broken = claiming("first", "acme").replace("spec: {", "spec: {stat: Active, ")
    now = after(before, TENANT + broken, other + claiming("second", "other"))
    assert list(now.snapshot.listeners) == ["default/first"]


def test_unchanged_documents_stay_the_same_objects() -> None:
    before = after(files.NO_CONFIGURATION, TENANT + listeners(2))
    now = after(before, TENANT + listeners(3))
    assert now.snapshot.listeners["default/l0"] is before.snapshot.listeners["default/l0"]
