"""The program ``usher``."""

from usher_gateway.cli import app


def main() -> None:
    """Run the command line."""
    app.run()


if __name__ == "__main__":
    main()
