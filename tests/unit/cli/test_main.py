"""Commands are imported when they are called, and are listed, completed and suggested before."""

import subprocess
import sys

from support import command_line

IMPORTED = """
import sys
from usher_gateway.cli import main
main.build()(["visits", "list", "--help"], standalone_mode=False)
print(sorted(name for name in sys.modules if name.startswith("usher_gateway.")), file=sys.stderr)
"""


def test_command_imports_few_modules() -> None:
    run = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True)
    assert "usher_gateway.cli.listings" in run.stderr
    for name in ("cli.run", "cli.check", "cli.tenants", "access.tokens", "expressions", "resources", "config", "logs"):
        assert f"usher_gateway.{name}'" not in run.stderr


def test_shell_completes_commands_and_the_commands_of_a_group() -> None:
    completing = {"_USHER_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    assert command_line.run(COMP_WORDS="usher vis", **completing).out.split() == ["visits"]
    assert len(command_line.run(COMP_WORDS="usher ", **completing).out.split()) > 20
    completing["COMP_CWORD"] = "2"
    assert command_line.run(COMP_WORDS="usher visits re", **completing).out.split() == ["replay"]


def test_wrong_command_gets_the_name_of_a_similar_one() -> None:
    assert "Did you mean 'visits'?" in command_line.run("visit").err
