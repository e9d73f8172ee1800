"""Writes charts/usher/files/dashboards: `make dashboards`."""

from pathlib import Path

from boards import output

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Write every board that differs."""
    for name, text in output.files().items():
        file = ROOT / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists() or file.read_text("utf-8") != text:
            file.write_text(text, "utf-8")
            print(f"wrote {name}")


if __name__ == "__main__":
    main()
