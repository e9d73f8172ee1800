import os
import pathlib

import msgspec
import pytest

from usher_gateway import model
from usher_gateway.config import file_reading, files
from usher_gateway.resources import compiler
from usher_gateway.resources.manifests import load_manifests, merge_manifests

OPTIONS = compiler.CompileContext(
    keys=model.derive_keys(bytes(32)), now=0, allow_implicit_class=True, require_watch_label=False
)
TENANT = "apiVersion: usher.dev/v1alpha1\nkind: Tenant\nmetadata: {name: acme}\n"


def listeners(count: int, first: int = 0) -> str:
    return "".join(
        f"---\napiVersion: usher.dev/v1alpha1\nkind: Listener\nmetadata: {{name: l{number}}}\n"
        "spec: {tenantRef: {name: acme}}\n"
        for number in range(first, first + count)
    )


def after(
    running: files.FileConfiguration,
    *texts: str,
    gaps: tuple[str, ...] = (),
    removal_limit: int | None = None,
    seconds: float = 0.0,
    day: int = 0,
) -> files.FileConfiguration:
    """Return the configuration after a reading. ``day``: since the epoch; 0: no address is retired."""
    parts = [load_manifests(text.encode(), f"d/{index}.yaml") for index, text in enumerate(texts)]
    return files.apply_reading(
        running,
        merge_manifests(parts),
        gaps,
        msgspec.structs.replace(OPTIONS, now=day * 86_400_000_000),
        lambda file: (0, file),
        removal_limit=removal_limit,
        now=seconds,
    )


def test_invalid_object_keeps_its_last_good_version() -> None:
    running = after(files.NO_CONFIGURATION, TENANT + listeners(1), listeners(1, first=1))
    suspended = listeners(1, first=1).replace("spec: {", "spec: {state: Suspended, ")
    now = after(running, TENANT + listeners(1).replace("tenantRef", "tenantref"), suspended)
    assert now.snapshot.listeners["default/l0"] is running.snapshot.listeners["default/l0"]
    assert now.snapshot.listeners["default/l1"].state == "Suspended"
    assert {problem.path for problem in now.rejected} == {"spec.tenantref"}


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
        problems = after(files.NO_CONFIGURATION, *broken).problems
        assert {problem.because for problem in problems if problem.reason.endswith("NotFound")} == cause


def test_hint_names_similar_name_or_other_namespace() -> None:
    text = listeners(1).replace("acme", "acm")
    assert [problem.hint for problem in after(files.NO_CONFIGURATION, TENANT + text).rejected] == [
        "did you mean `acme`?"
    ]
    elsewhere = TENANT.replace("acme", "acme, namespace: hotels")
    (problem,) = after(files.NO_CONFIGURATION, elsewhere + listeners(1)).rejected
    assert "namespace `hotels`" in problem.hint


CLASS = (
    "---\napiVersion: usher.dev/v1alpha1\nkind: ListenerClass\nmetadata: {name: public}\n"
    "spec: {controllerName: usher.dev/usher, hostname: hooks.example}\n"
)


def test_unknown_class_is_a_problem_with_a_hint() -> None:
    named = TENANT + listeners(1).replace("spec: {", "spec: {listenerClassName: publix, ")
    (problem,) = after(files.NO_CONFIGURATION, named + CLASS).rejected
    assert (problem.path, problem.hint) == ("spec.listenerClassName", "did you mean `public`?")
    without = after(files.NO_CONFIGURATION, named)
    assert [problem.severity for problem in without.problems] == ["notice", "warning"]
    assert "publix" in without.problems[1].message
    assert without.snapshot.listeners["default/l0"].addresses[0].host == "localhost"
    plain = TENANT + listeners(1).replace("spec: {", "spec: {listenerClassName: public, ")
    assert [problem.severity for problem in after(files.NO_CONFIGURATION, plain).problems] == ["notice"]


def test_invalid_class_does_not_move_listeners() -> None:
    now = after(files.NO_CONFIGURATION, TENANT + listeners(2) + CLASS.replace("hostname", "hostnam"))
    assert now.snapshot.listeners == {}
    assert {problem.because for problem in now.rejected} == {"", "ListenerClass public"}
    running = after(files.NO_CONFIGURATION, TENANT + listeners(2))
    later = after(running, TENANT + listeners(3) + CLASS.replace("hostname", "hostnam"))
    assert {listener.addresses[0].host for listener in later.snapshot.listeners.values()} == {"localhost"}
    assert len(later.snapshot.listeners) == 3


def test_unparsable_file_stops_every_removal() -> None:
    running = after(files.NO_CONFIGURATION, TENANT + listeners(2), listeners(2, first=2))
    now = after(running, TENANT + listeners(1), listeners(1, first=2) + "---\n}")
    assert now.snapshot.listeners.keys() == running.snapshot.listeners.keys()
    assert not now.complete


def test_gap_stops_only_its_own_removals() -> None:
    running = after(files.NO_CONFIGURATION, TENANT + listeners(2), listeners(1, first=2))
    now = after(running, TENANT + listeners(1), gaps=("d/1.yaml",))
    assert sorted(now.snapshot.listeners) == ["default/l0", "default/l2"]


def test_namespace_is_forgotten_only_after_a_complete_reading() -> None:
    namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: hotels, labels: {team: a}}\n"
    running = after(files.NO_CONFIGURATION, TENANT, namespace)
    assert after(running, TENANT, gaps=("d/1.yaml",)).namespaces == {"hotels": {"team": "a"}}
    assert after(running, TENANT).namespaces == {}


def test_folder_is_read_without_hidden_and_other_files(tmp_path: pathlib.Path) -> None:
    (tmp_path / ".hidden").mkdir()
    for name in ("a.yaml", ".b.yaml", ".b.yaml.swp", "b.yaml~", "#b.yaml#", "4913", "notes.txt", ".hidden/b.yaml"):
        (tmp_path / name).write_text(TENANT)
    reading = file_reading.FileReader([tmp_path]).read()
    assert [loaded.file for loaded in reading.manifests.objects] == [str(tmp_path / "a.yaml")]


def test_empty_folder_named_by_a_dot_is_a_gap_of_its_files(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reader = file_reading.FileReader([pathlib.Path("/elsewhere"), pathlib.Path()])
    assert reader.read().gaps == ("/elsewhere", ".")
    assert [reader.rank(file)[0] for file in ("b.yaml", "sub/b.yaml", "/elsewhere/b.yaml", "/other/b.yaml")] == [
        1,
        1,
        0,
        2,
    ]
    running = after(files.NO_CONFIGURATION, TENANT + listeners(1))
    assert after(running, gaps=(".",)).snapshot == running.snapshot


def test_file_whose_name_is_not_utf_8_is_read(tmp_path: pathlib.Path) -> None:
    with open(os.fsencode(tmp_path) + b"/b\xff.yaml", "w") as file:  # noqa: PTH123 - a path has no bytes
        file.write(TENANT)
    reading = file_reading.FileReader([tmp_path]).read()
    assert [loaded.file for loaded in reading.manifests.objects] == [f"{tmp_path}/b?.yaml"]


def test_removed_tenant_removes_its_listeners() -> None:
    other = TENANT.replace("acme", "other") + listeners(1, first=9).replace("acme", "other")
    running = after(files.NO_CONFIGURATION, TENANT + listeners(3), other)
    assert after(running, listeners(3), other).snapshot.listeners.keys() == {"default/l9"}


def test_large_removal_is_halted_while_edits_go_on() -> None:
    running = after(files.NO_CONFIGURATION, TENANT + listeners(20))
    edited = listeners(1).replace("spec: {", "spec: {state: Suspended, ")
    now = after(running, TENANT + edited + listeners(1, first=50))
    assert len(now.snapshot.listeners) == 21
    assert now.snapshot.listeners["default/l0"].state == "Suspended"
    (halted,) = now.removal_history.halted
    assert len(halted.removals) == 19
    assert any(halted.digest in problem.hint for problem in now.rejected)
    again = after(now, TENANT + edited + listeners(1, first=50))
    assert again.removal_history.halted == (halted,)


def annotated(hashes: str, hostname: str = "localhost") -> str:
    return (
        "---\napiVersion: usher.dev/v1alpha1\nkind: ListenerClass\n"
        f'metadata: {{name: public, annotations: {{usher.dev/confirm-removals: "{hashes}"}}}}\n'
        f"spec: {{controllerName: usher.dev/usher, hostname: {hostname}}}\n"
    )


def test_every_destination_of_a_halted_removal_stays() -> None:
    destinations = "".join(
        f"---\napiVersion: usher.dev/v1alpha1\nkind: Destination\nmetadata: {{name: d{number}}}\n"
        "spec: {type: HTTP, http: {url: 'https://crm.example/'}}\n"
        for number in range(6)
    )
    running = after(files.NO_CONFIGURATION, TENANT + destinations, listeners(1))
    now = after(running, TENANT, listeners(1))
    assert now.snapshot.destinations == running.snapshot.destinations


def test_used_confirmation_does_not_confirm_the_same_removal_again() -> None:
    running = after(files.NO_CONFIGURATION, TENANT + listeners(20))
    (halted,) = after(running, TENANT + listeners(2)).removal_history.halted
    waiting = after(running, TENANT + listeners(2))
    used = annotated(halted.digest)
    removed = after(waiting, TENANT + listeners(2) + used)
    back = after(removed, TENANT + listeners(20) + used)
    again = after(back, TENANT + listeners(2) + used)
    assert len(again.snapshot.listeners) == 20
    assert len(after(again, TENANT + listeners(2) + used).snapshot.listeners) == 20
    (problem,) = (rejected for rejected in again.rejected if "RemovalsHalted" in rejected.message)
    assert "delete the annotation and add it again" in problem.hint
    deleted = after(again, TENANT + listeners(2) + annotated(""))
    assert len(after(deleted, TENANT + listeners(2) + used).snapshot.listeners) == 2


def test_halt_holds_up_only_its_namespace() -> None:
    def of(namespace: str, text: str) -> str:
        return text.replace("metadata: {", f"metadata: {{namespace: {namespace}, ")

    running = after(files.NO_CONFIGURATION, of("a", TENANT + listeners(9)), of("b", TENANT + listeners(3)))
    now = after(running, of("a", TENANT + listeners(1)), of("b", TENANT + listeners(2)))
    assert sorted(now.snapshot.listeners) == [*(f"a/l{number}" for number in range(9)), "b/l0", "b/l1"]
    assert [halt.namespace for halt in now.removal_history.halted] == ["a"]


def test_last_listener_is_removed_only_after_a_confirmation() -> None:
    running = after(files.NO_CONFIGURATION, TENANT + listeners(1))
    now = after(running, TENANT)
    assert now.snapshot.listeners.keys() == {"default/l0"}
    renamed = after(running, TENANT + listeners(1, first=1))
    assert renamed.snapshot.listeners.keys() == {"default/l1"}
    (halted,) = now.removal_history.halted
    assert after(now, TENANT + annotated(halted.digest)).snapshot.listeners == {}


def test_edit_that_moves_many_addresses_waits_for_a_confirmation() -> None:
    running = after(files.NO_CONFIGURATION, TENANT + listeners(9) + annotated("", "old.example.com"))
    moved = TENANT + listeners(9).replace("spec: {", "spec: {state: Suspended, ") + listeners(1, first=9)
    waiting = after(running, moved + annotated("", "new.example.com"))
    assert {key: listener.state for key, listener in waiting.snapshot.listeners.items() if key != "default/l9"} == {
        f"default/l{number}": "Active" for number in range(9)
    }
    assert [address.host for address in waiting.snapshot.listeners["default/l0"].addresses] == ["old.example.com"]
    assert [address.host for address in waiting.snapshot.listeners["default/l9"].addresses] == ["new.example.com"]
    (halted,) = waiting.removal_history.halted
    assert any("addresses of Listener `l0`" in problem.message for problem in waiting.rejected)
    confirmed = after(waiting, moved + annotated(halted.digest, "new.example.com"))
    hosts = [address.host for address in confirmed.snapshot.listeners["default/l0"].live_addresses]
    assert (hosts, confirmed.removal_history.halted) == (["new.example.com"], ())
    reverted = after(waiting, TENANT + listeners(10) + annotated("", "old.example.com"))
    assert reverted.removal_history.halted == ()


def moved_hostname(count: int) -> tuple[files.FileConfiguration, str]:
    """Return listeners whose class moved to another hostname on day 20,000, and their files."""
    running = after(files.NO_CONFIGURATION, TENANT + listeners(count) + annotated("", "old.example.com"), day=20_000)
    waiting = after(running, TENANT + listeners(count) + annotated("", "new.example.com"), day=20_000)
    digest = "".join(halt.digest for halt in waiting.removal_history.halted)
    text = TENANT + listeners(count) + annotated(digest, "new.example.com")
    running = after(waiting, text, day=20_000)
    assert [len(listener.addresses) for listener in running.snapshot.listeners.values()] == [2] * count
    return running, text


def test_many_retired_addresses_of_files_end_only_after_a_confirmation() -> None:
    running, text = moved_hostname(6)
    over = after(running, text.replace("spec: {tenantRef", "spec: {state: Suspended, tenantRef"), day=20_007)
    listener = over.snapshot.listeners["default/l0"]
    assert [address.host for address in listener.addresses] == ["new.example.com", "old.example.com"]
    assert listener.state == "Suspended", "edits go on"
    assert any("retired addresses of Listener `l0`" in problem.message for problem in over.rejected)
    (halted,) = over.removal_history.halted
    ended = after(over, TENANT + listeners(6) + annotated(halted.digest, "new.example.com"), day=20_007)
    assert not any(listener.retired_addresses for listener in ended.snapshot.listeners.values())
    assert ended.removal_history.halted == ()


def test_few_retired_addresses_of_files_end_without_a_confirmation() -> None:
    running, text = moved_hostname(2)
    ended = after(running, text, day=20_007)
    assert [len(listener.addresses) for listener in ended.snapshot.listeners.values()] == [1, 1]


def test_confirmation_that_matches_nothing_shows_in_the_problem() -> None:
    running = after(files.NO_CONFIGURATION, TENANT + listeners(9) + annotated(""))
    waiting = after(running, TENANT + annotated("84a77c86d40b"))
    (digest,) = (halt.digest for halt in waiting.removal_history.halted)
    (problem,) = (rejected for rejected in waiting.rejected if "RemovalsHalted" in rejected.message)
    assert "the annotation has `84a77c86d40b`, which matches nothing that waits" in problem.hint
    both = after(waiting, TENANT + annotated(f"84a77c86d40b,{digest}"))
    assert both.removal_history.halted == ()


def test_edit_of_a_class_can_be_undone_and_repeated() -> None:
    now = after(files.NO_CONFIGURATION, TENANT + listeners(3) + annotated("", "old.example.com"))
    for hostname in ("new", "old", "new"):
        now = after(now, TENANT + listeners(3) + annotated("", f"{hostname}.example.com"))
        assert now.removal_history.halted == (), hostname


def test_moved_addresses_of_the_last_ten_minutes_count_together() -> None:
    def moved(count: int, generation: int = 1) -> str:
        token = f"{{token: {{generation: {generation}}}, "
        return TENANT + listeners(count).replace("spec: {", f"spec: {token}") + listeners(20 - count, first=count)

    now = after(files.NO_CONFIGURATION, TENANT + listeners(20))
    for count in range(1, 6):
        now = after(now, moved(count), seconds=count)
    assert after(now, moved(6), seconds=600).removal_history.halted
    assert not after(now, moved(6), seconds=601).removal_history.halted
    assert not after(now, moved(5, generation=2), seconds=6).removal_history.halted, "each Listener's last edit counts"


def test_removals_of_the_last_ten_minutes_count_together() -> None:
    now = after(files.NO_CONFIGURATION, TENANT + listeners(20))
    for removed in range(1, 6):
        now = after(now, TENANT + listeners(20 - removed), seconds=removed)
    assert len(now.snapshot.listeners) == 15
    assert len(after(now, TENANT + listeners(14), seconds=600).snapshot.listeners) == 15
    assert len(after(now, TENANT + listeners(14), seconds=601).snapshot.listeners) == 14
    back = after(now, TENANT + listeners(20), seconds=6)
    assert len(after(back, TENANT + listeners(15), seconds=7).snapshot.listeners) == 15, "they came back"


def test_removal_limit_is_a_setting_of_class_and_gateway() -> None:
    limited = annotated("").replace("spec: {", "spec: {removalLimit: 1, ")
    running = after(files.NO_CONFIGURATION, TENANT + listeners(5) + limited)
    assert len(after(running, TENANT + listeners(3) + limited).snapshot.listeners) == 5
    assert len(after(running, TENANT + listeners(3) + limited, removal_limit=2).snapshot.listeners) == 3


def test_removed_last_class_does_not_move_listeners() -> None:
    running = after(files.NO_CONFIGURATION, TENANT + listeners(2) + CLASS)
    now = after(running, TENANT + listeners(2))
    assert now.snapshot == running.snapshot
    assert now.snapshot.listeners["default/l0"].addresses[0].host == "hooks.example"


def test_kept_listener_loses_an_address_that_is_taken() -> None:
    def explicit(name: str) -> str:
        return (
            f"---\napiVersion: usher.dev/v1alpha1\nkind: Listener\nmetadata: {{name: {name}}}\nspec: {{tenantRef: "
            "{name: acme}, authentication: {type: None}, addresses: [{name: a, hostname: x.example, path: /x}]}\n"
        )

    running = after(files.NO_CONFIGURATION, TENANT + listeners(20) + explicit("old"))
    now = after(running, TENANT + explicit("new"))
    assert now.removal_history.halted
    assert "default/new" in now.snapshot.listeners
    assert "default/old" not in now.snapshot.listeners


def test_kept_object_keeps_its_place_and_its_hostname() -> None:
    other = TENANT.replace("acme", "other")

    def claiming(name: str, tenant: str) -> str:
        return (
            f"---\napiVersion: usher.dev/v1alpha1\nkind: Listener\nmetadata: {{name: {name}}}\n"
            f"spec: {{tenantRef: {{name: {tenant}}}, addresses: [{{name: a, hostname: x.example}}]}}\n"
        )

    running = after(files.NO_CONFIGURATION, TENANT + claiming("first", "acme"), other + claiming("second", "other"))
    broken = claiming("first", "acme").replace("spec: {", "spec: {stat: Active, ")
    now = after(running, TENANT + broken, other + claiming("second", "other"))
    assert list(now.snapshot.listeners) == ["default/first"]
