"""Figures that the tests of a node measure. The end of the run shows them; no test depends on them."""

LINES: list[str] = []


def add(line: str) -> None:
    """Show a line at the end of the run."""
    LINES.append(line)
