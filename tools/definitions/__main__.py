"""Writes crds/, docs/reference/ and the templates of the chart that repeat them: `make crds`."""

from pathlib import Path

from definitions import output

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Write every file that differs, remove obsolete files, and print their names."""
    generated = output.files()
    for folder in output.FOLDERS:
        for file in (ROOT / folder).glob("*"):
            if file.is_file() and file.relative_to(ROOT).as_posix() not in {*generated, *output.WRITTEN_BY_HAND}:
                file.unlink()
                print(f"removed {file.relative_to(ROOT)}")
    for name, text in generated.items():
        file = ROOT / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists() or file.read_text("utf-8") != text:
            file.write_text(text, "utf-8")
            print(f"wrote {name}")


if __name__ == "__main__":
    main()
