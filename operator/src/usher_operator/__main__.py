"""The program ``usher-operator``."""

from usher_operator import cli


def main() -> None:
    """Run the command line."""
    cli.main()


if __name__ == "__main__":
    main()
