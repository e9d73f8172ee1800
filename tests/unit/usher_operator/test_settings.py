"""The operator parses its flags strictly; each flag has an environment variable and help."""

from typing import Any

import pytest
import typer.main
from typer import testing

from usher_gateway import model
from usher_operator import cli, settings
from usher_operator.settings import AdminAddress, BackendService, GatewayService, OperatorSettings

COMMAND: Any = typer.main.get_command(cli.build())


@pytest.mark.parametrize(
    ("text", "service"),
    [
        ("usher-system/gateway", GatewayService("usher-system", "gateway")),
        ("a/b:admin", GatewayService("a", "b", "admin")),
        ("a/b:9090", GatewayService("a", "b", "9090")),
    ],
)
def test_service_flag_is_parsed(text: str, service: GatewayService) -> None:
    assert settings.parse_service(text) == service


@pytest.mark.parametrize("text", ["gateway", "a/b/c", "a/B", "a/b:", ""])
def test_invalid_service_flag_is_rejected(text: str) -> None:
    with pytest.raises(model.ConfigurationError, match="NAMESPACE/NAME"):
        settings.parse_service(text)


def test_address_and_backend_flags_are_parsed() -> None:
    assert settings.parse_endpoint("[::1]:9091") == AdminAddress("::1", 9091)
    assert settings.parse_backend("usher-gateway:80") == BackendService("usher-gateway", 80)
    for parse, text in ((settings.parse_endpoint, "9091"), (settings.parse_backend, "gateway")):
        with pytest.raises(model.ConfigurationError):
            parse(text)


@pytest.mark.parametrize(
    "wrong",
    [
        OperatorSettings(controller_name="usher"),
        OperatorSettings(gateways=("127.0.0.1:9090",)),
        OperatorSettings(gateways=("http://127.0.0.1:9090",), gateway_service=GatewayService("a", "b")),
        OperatorSettings(workers=0),
    ],
)
def test_impossible_settings_are_rejected_with_a_hint(wrong: OperatorSettings) -> None:
    with pytest.raises(model.ConfigurationError) as refused:
        wrong.check()
    assert refused.value.hint


def test_each_flag_has_help() -> None:
    assert [option.name for option in COMMAND.commands["run"].params if not option.help] == []


def test_flag_is_read_from_its_environment_variable() -> None:
    shown = testing.CliRunner().invoke(cli.build(), ["run"], env={"USHER_OPERATOR_WORKERS": "257"})
    assert "--workers must be from 1 to 256" in shown.output


def test_help_shows_an_example() -> None:
    shown = testing.CliRunner().invoke(cli.build(), ["run", "--help"])
    assert shown.exit_code == 0
    assert "usher-operator run --" in shown.output


@pytest.mark.parametrize(
    "arguments", [["--admin", "nowhere"], ["--gateway-service", "x"], ["--kubeconfig", "/nonexistent/file"]]
)
def test_wrong_flag_exits_with_2_and_a_hint(arguments: list[str]) -> None:
    shown = testing.CliRunner().invoke(cli.build(), ["run", *arguments])
    assert shown.exit_code == 2
    assert "usher-operator: " in shown.output
    assert "Traceback" not in shown.output


def test_help_shows_the_whole_summary_of_each_command() -> None:
    shown = testing.CliRunner().invoke(cli.build(), ["--help"], env={"COLUMNS": "80"}).output
    assert "Watch Usher's custom resources and keep routes and configuration as they declare." in " ".join(
        shown.split()
    )
    assert "..." not in shown.split("Commands:")[1]
