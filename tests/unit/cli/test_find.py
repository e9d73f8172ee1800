import subprocess
import sys

ONE_MORE_COLUMN = """
import dataclasses
from usher_gateway.words import listings
columns = (*listings.VISITS.columns, ("VENUE", listings.text_cell("venue")))
listings.VISITS = dataclasses.replace(listings.VISITS, columns=columns)
from usher_gateway.cli import find
"""


def test_commands_start_if_the_list_of_visits_has_one_more_column() -> None:
    run = subprocess.run([sys.executable, "-c", ONE_MORE_COLUMN], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
