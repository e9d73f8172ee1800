"""`usher check`, `usher url`, and what other commands say about their arguments."""

import base64
import contextlib
import csv
import io
import json
import pathlib
import re
import subprocess
import sys

import pytest

from support import command_line

ROOT = pathlib.Path(__file__).parents[3]
KEY = base64.b64encode(bytes(32)).decode()


def usher(*arguments: object, piped: str = "", **environment: str) -> command_line.CommandRun:
    """Run a command in the folder of the repository."""
    with contextlib.chdir(ROOT):
        return command_line.run(*arguments, piped=piped, **{"NO_COLOR": "1", "COLUMNS": "120", **environment})


def test_program_accepts_the_examples() -> None:
    """The only test here that starts the program as users do: a process takes a second to start."""
    program = pathlib.Path(sys.executable).with_name("usher")
    command = [str(program), "check", "examples/agency", "examples/quickstart.yaml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "no problems" in done.stdout) == (0, True), done.stdout


def test_check_reports_every_problem_with_line_and_hint(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        "apiVersion: usher.dev/v1alpha1\nkind: Tenant\nmetadata: {name: a}\nspec: {timezone: UTC, state: x}\n"
    )
    done = usher("check", file)
    assert done.code == 1
    assert f"{file}:4: error: Tenant default/a: spec.timezone: unknown field\n    did you mean `timeZone`?" in done.out
    assert "2 problems" in done.out
    told = json.loads(usher("check", "--output", "json", file).out)["problems"]
    assert [(problem["line"], problem["path"]) for problem in told] == [(4, "spec.state"), (4, "spec.timezone")]


def test_missing_or_unreadable_path_is_reported_without_a_line(tmp_path: pathlib.Path) -> None:
    unreadable = tmp_path / ("a" * 300)  # its name is too long; as root nothing is forbidden
    for path in (tmp_path / "absent.yaml", unreadable):
        done = usher("check", path)
        assert (done.code, done.out.startswith(f"{path}: error: no such file or folder")) == (1, True), done.out
        assert "check the path and its permissions; a gateway that runs keeps what it held before" in done.out
        done = usher("run", "examples/quickstart.yaml", path, "--data", tmp_path / "data")
        assert (done.code, f"{path}: no such file or folder" in done.said) == (2, True), done.err
        assert not (tmp_path / "data").exists()
    assert usher("check").code == 2
    done = usher("check", tmp_path)
    assert (done.code, "no file in this folder ends in .yaml or .yml" in done.out) == (1, True), done.out


@pytest.mark.parametrize(
    "command",
    [
        ("check", "examples/quickstart.yaml", "--body", "absent"),
        ("check", "examples/quickstart.yaml", "--against", "absent"),
        ("url", "examples/quickstart.yaml", "absent"),
    ],
)
def test_missing_file_is_named(command: tuple[str, ...]) -> None:
    done = usher(*command, USHER_INSTALL_KEY=KEY)
    assert (done.code, done.out, done.err) == (2, "", "usher: there is no file or folder absent\n")


def test_url_prints_those_of_one_tenant(tmp_path: pathlib.Path) -> None:
    text = (ROOT / "examples" / "quickstart.yaml").read_text()
    for name in ("acme", "zoo"):
        manifest = text.replace("acme", name).replace("name: lobby", f"name: {name}-lobby")
        (tmp_path / f"{name}.yaml").write_text(manifest.replace("name: crm}\nspec", f"name: {name}}}\nspec"))
    done = usher("url", tmp_path, "--tenant", "zoo", "-o", "json", USHER_INSTALL_KEY=KEY)
    assert [row["listener"] for row in json.loads(done.out)["rows"]] == ["zoo-lobby"]
    wrong = usher("url", tmp_path, "--tenant", "zooo", USHER_INSTALL_KEY=KEY)
    assert (wrong.code, "did you mean `zoo`?" in wrong.err) == (2, True)


def test_follow_up_error_is_reported_with_its_cause(tmp_path: pathlib.Path) -> None:
    text = (ROOT / "examples" / "quickstart.yaml").read_text()
    file = tmp_path / "a.yaml"
    file.write_text(text.replace("displayName", "displayname"))
    done = usher("check", file)
    assert done.code == 1
    assert (
        "did you mean `displayName`?\n    because of this, something is missing for Listener default/lobby" in done.out
    )
    assert "must exist" not in done.out
    assert "1 problem\n" in done.out
    assert "because of 1 mistake:" in usher("url", file, USHER_INSTALL_KEY=KEY).err
    told = json.loads(usher("check", "--output", "json", file).out)["problems"]
    assert [problem["because"] for problem in told if problem["reason"] == "TenantNotFound"] == ["Tenant default/acme"]


def test_many_follow_up_errors_of_one_mistake_are_counted(tmp_path: pathlib.Path) -> None:
    text = (ROOT / "examples" / "quickstart.yaml").read_text()
    manifest = (
        "---\napiVersion: usher.dev/v1alpha1\nkind: Listener\nmetadata: {name: l%d}\nspec: {tenantRef: {name: acme}}\n"
    )
    (tmp_path / "a.yaml").write_text(text.partition("---\n")[0] + "a: [\n")
    (tmp_path / "b.yaml").write_text("".join(manifest % number for number in range(9)))
    done = usher("check", tmp_path)
    assert "Listener default/l4 (" in done.out
    assert ") and 4 more\n" in done.out
    assert done.out.count(": error: ") == 1


def test_manifests_are_read_from_standard_input() -> None:
    text = (ROOT / "examples" / "quickstart.yaml").read_text()
    assert usher("check", "-", piped=text).code == 0
    done = usher("check", "-", piped=text.replace("displayName", "displayname"))
    assert (done.code, "<stdin>:7: error: Tenant default/acme" in done.out) == (1, True), done.out
    assert "https://localhost/v1/" in usher("url", "-", piped=text, USHER_INSTALL_KEY=KEY).out
    done = usher("run", "-", piped=text)
    assert (done.code, "cannot be watched" in done.err) == (2, True)


def test_private_destination_gets_a_notice_unless_it_is_allowed() -> None:
    text = (ROOT / "examples" / "quickstart.yaml").read_text()
    private = text.replace("127.0.0.1:9000", "10.2.3.4:8443")
    assert private != text
    done = usher("check", "-", piped=private)
    line = "<stdin>:24: notice: Destination default/crm: spec.http.url: 10.2.3.4 is not a public address (Private)"
    assert (done.code, line in done.out, "10.2.3.4:8443`" in done.out) == (0, True, True), done.out
    for told in (
        usher("check", "-", piped=text),
        usher("check", "-", "--listen", "127.0.0.1:8080", piped=text),
        usher("check", "-", "--allow-destination", "10.2.3.4:8443", piped=private),
        usher("check", "-", piped=private, USHER_ALLOW_DESTINATION="10.0.0.0/8"),
    ):
        assert (told.code, "public address" in told.out) == (0, False), told.out
    open_port = usher("check", "-", "--listen", ":8080", piped=text)
    assert (open_port.code, "127.0.0.1 is not a public address (Loopback)" in open_port.out) == (0, True)
    refused = usher("check", "-", "--allow-destination", "x/y", piped=private)
    assert (refused.code, refused.err.startswith("usher: 'x/y' is neither")) == (2, True)


def test_empty_set_is_an_error_and_empty_file_a_warning(tmp_path: pathlib.Path) -> None:
    empty = tmp_path / "a.yaml"
    for content in ("", "# apiVersion: usher.dev/v1alpha1\n", "---\n", "apiVersion: v1\nkind: Service\n"):
        empty.write_text(content)
        done = usher("check", empty)
        assert (done.code, f"{empty}:1: error: there is no object of Usher" in done.out) == (1, True), content
        assert "delete the file" not in done.out, "a missing path that the user named removes nothing"
        assert "delete the file" in usher("check", tmp_path).out
        assert "    a gateway that runs keeps what it held before, if anything\n" in done.out
    done = usher("check", "-")
    assert (done.code, "a gateway that runs" in done.out) == (1, False), "no gateway reads standard input"
    empty.write_text("# later\n")
    done = usher("check", empty, "examples/quickstart.yaml")
    assert (done.code, f"{empty}:1: warning: there is no object" in done.out) == (0, True)


def test_urls_are_derived_from_the_install_key(tmp_path: pathlib.Path) -> None:
    first = usher("url", "examples/quickstart.yaml", "--data", tmp_path, "--new-key")
    assert "A new install key was made" in first.err
    assert first.code == 0
    assert "https://localhost/v1/" in first.out
    assert usher("url", "examples/quickstart.yaml", USHER_DATA=str(tmp_path)).out == first.out
    assert usher("url", "examples/quickstart.yaml", "--data", tmp_path, "--new-key").out == first.out
    other = usher("url", "examples/quickstart.yaml", "--data", tmp_path, USHER_INSTALL_KEY=KEY)
    assert other.out != first.out


def test_url_does_not_create_a_key_unasked(tmp_path: pathlib.Path) -> None:
    done = usher("url", "examples/quickstart.yaml", "--data", tmp_path)
    assert (done.code, done.out) == (2, "")
    assert "start `usher run` first" in done.err
    assert "`usher url --new-key`" in done.err, "export, import and check say this too, and have no such flag"
    assert list(tmp_path.iterdir()) == []


def test_existing_url_is_printed_with_its_query() -> None:
    done = usher("url", "examples/agency", "--output", "json", USHER_INSTALL_KEY=KEY)
    assert "https://www.stadium.example/hooks/purple.php?k=7" in [
        entry["url"] for entry in json.loads(done.out)["rows"]
    ]


def test_url_reads_the_default_data_folder_of_the_gateway(tmp_path: pathlib.Path) -> None:
    printed = usher("url", "examples/quickstart.yaml", "--data", tmp_path / "data", "--new-key")
    with contextlib.chdir(tmp_path):
        printed_again = command_line.run("url", ROOT / "examples" / "quickstart.yaml")
    assert (printed_again.code, printed_again.out) == (0, printed.out)


def test_wrong_log_flags_exit_with_code_2(tmp_path: pathlib.Path) -> None:
    for flag, value in (("--log-level", "loud"), ("--log-format", "xml")):
        done = usher("run", "examples/quickstart.yaml", "--data", tmp_path, flag, value)
        assert (done.code, flag in done.err) == (2, True), done.err


def test_tokens_of_kubernetes_need_a_way_to_the_api_server(tmp_path: pathlib.Path) -> None:
    done = usher("run", "examples/quickstart.yaml", "--data", tmp_path, "--admin-kubernetes-tokens")
    assert (done.code, "no kubeconfig is named" in done.err, "--kubeconfig" in done.err) == (2, True, True), done.err


def test_data_folder_that_is_a_file_is_reported(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "data"
    file.write_text("")
    done = usher("run", "examples/quickstart.yaml", "--data", file, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    assert done.code == 2
    assert "give --data a folder" in done.err


def test_common_yaml_mistakes_are_named(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "a.yaml"
    text = (ROOT / "examples" / "quickstart.yaml").read_text()
    for broken, hint in (
        (text.replace("  tenantRef", "\ttenantRef"), "not with tabs"),
        (text.replace("---\n", ""), "put `---` on a line of its own"),
    ):
        file.write_text(broken)
        done = usher("check", file)
        assert (done.code, hint in done.out) == (1, True), done.out


def test_mistakes_of_flags_are_reported_in_one_style() -> None:
    for command in (["run", "a.yaml", "--listen", "x"], ["receive", "--listen", "x"], ["simulate", "x"]):
        done = usher(*command)
        message, hint = done.err.splitlines()
        assert done.code == 2
        assert message.startswith("usher: ")
        assert hint.startswith("       ")


@pytest.mark.parametrize(
    ("command", "variables", "message"),
    [
        (("visits", "--limit", "many"), {}, "'--limit' (env var: 'USHER_LIMIT'): Input should be a valid integer"),
        (
            ("visits", "--limit", "0"),
            {},
            "'--limit' (env var: 'USHER_LIMIT'): Input should be greater than or equal to 1",
        ),
        (("visits",), {"USHER_LIMIT": "many"}, "'--limit' (env var: 'USHER_LIMIT'): Input should be a valid integer"),
        (
            ("visits", "-o", "xml"),
            {},
            "'xml' is not one of 'text', 'json', 'csv'",
        ),
        (("check", "a.yaml", "-o", "csv"), {}, "this command has no CSV: choose text or json"),
        (("destinations", "test", "agency/crm", "--body", "absent"), {}, "'--body': file 'absent' does not exist"),
    ],
)
def test_wrong_value_of_a_flag_is_explained(command: tuple[str, ...], variables: dict[str, str], message: str) -> None:
    done = usher(*command, **variables, COLUMNS="200")
    assert (done.code, message in done.err, "--help" in done.err or "-h" in done.err) == (2, True, True), done.err


def test_unknown_flag_and_missing_argument_are_explained() -> None:
    assert "No such option: --limt" in usher("visits", "--limt", "5").err
    assert "Missing argument" in usher("simulate").err


def test_help_shows_whole_summaries() -> None:
    for group in ([], ["deliveries"], ["visits"], ["quarantine"], ["dead"]):
        listed = usher(*group, "--help", COLUMNS="80").out.split("Commands:")[1]
        assert "..." not in listed


def test_shell_completes_the_commands_of_a_group_although_list_is_implied() -> None:
    asked = {"_USHER_COMPLETE": "complete_bash", "COMP_WORDS": "usher visits ", "COMP_CWORD": "2"}
    assert command_line.run(**asked).out.split() == ["list", "show", "replay"]


def test_check_warns_of_urls_that_another_tenant_of_the_same_name_inherits(tmp_path: pathlib.Path) -> None:
    text = (ROOT / "examples" / "quickstart.yaml").read_text(encoding="utf-8")

    def write(name: str, uid: str, *, generation: int = 0) -> pathlib.Path:
        tenant = text.replace("{name: acme}\nspec: {displayName", f"{{name: acme, uid: {uid}}}\nspec: {{displayName")
        assert f"uid: {uid}" in tenant
        file = tmp_path / name
        file.write_text(
            tenant.replace("  routes:", f"  token: {{generation: {generation}}}\n  routes:"), encoding="utf-8"
        )
        return file

    old = write("old.yaml", "one")
    warning = "Tenant default/acme is another object than before"
    assert warning in usher("check", write("new.yaml", "two"), "--against", old).out
    for other in (write("same.yaml", "one"), write("rotated.yaml", "two", generation=1)):
        assert warning not in usher("check", other, "--against", old).out


def test_check_against_files_lists_the_urls_that_an_edit_moves(tmp_path: pathlib.Path) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    text = (ROOT / "examples" / "quickstart.yaml").read_text(encoding="utf-8")
    old.write_text(text, encoding="utf-8")
    new.write_text(text.replace("  routes:", "  token: {generation: 1}\n  routes:"), encoding="utf-8")
    assert f"compared with {old}: every URL stays" in usher("check", old, "--against", old).out
    done = usher("check", new, "--against", old)
    assert done.code == 0, done.out
    assert re.search(r"default/lobby: https://localhost/v1/\w{4}… is retired", done.out)
    assert re.search(r"the listener gets https://localhost/v1/\w{4}…: change the URL in the portal", done.out)
    assert f"compared with {old}: 1 URL would go out of service" in done.out
    (move,) = json.loads(usher("check", new, "--against", old, "--output", "json").out)["moves"]
    assert move["listener"] == "default/lobby"
    assert usher("check", new, "--against", tmp_path / "absent.yaml").code == 2


def test_output_means_the_same_in_commands_without_csv() -> None:
    command = ("check", "examples/agency")
    as_json = usher(*command, "-o", "json")
    assert (as_json.code, as_json.out[-2:]) == (0, "}\n")
    for output in ("json", "csv"):
        by_variable = usher(*command, USHER_OUTPUT=output)
        assert (by_variable.code, by_variable.out.startswith("{")) == (0, output == "json")
    refused = usher(*command, "-o", "csv")
    assert (refused.code, "this command has no CSV: choose text or json" in refused.err) == (2, True)


def test_urls_are_printed_in_every_format() -> None:
    command = ("url", "examples/agency")
    rows = json.loads(usher(*command, "-o", "json", USHER_INSTALL_KEY=KEY).out)["rows"]
    for done in (
        usher(*command, "-o", "csv", USHER_INSTALL_KEY=KEY),
        usher(*command, USHER_OUTPUT="csv", USHER_INSTALL_KEY=KEY),
    ):
        assert list(csv.DictReader(io.StringIO(done.out))) == rows
