"""python -m prometheus: fetch Debian's Prometheus into the cache."""

import sys

from prometheus import debian


def main() -> int:
    try:
        debian.programs()
    except debian.NotDebianError as error:
        print(f"Without Debian, {error}. They are skipped.", file=sys.stderr)
    except debian.PrometheusError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
