"""What the tests of a node measure: shown at the end of the run, and never a condition of a test."""

LINES: list[str] = []


def add(line: str) -> None:
    """Show a line at the end of the run."""
    LINES.append(line)
