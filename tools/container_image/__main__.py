"""Build the image of both programs with docker, podman or buildah.

python -m container_image build      build it from the Dockerfile
python -m container_image prepare    fetch what tests need to build it without a registry and without network
"""

import argparse
import sys
from pathlib import Path

from container_image import engine, offline


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m container_image", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build")
    build.add_argument("--image", default=f"usher:{engine.version()}", help="name of the image [default: %(default)s]")
    build.add_argument("--engine", help="docker, podman or buildah [default: the first that works]")
    build.add_argument("--base", help="image to build on [default: the BASE_IMAGE of the Dockerfile]")
    build.add_argument("--wheelhouse", type=Path, help="folder with the wheels, for a build without network")
    commands.add_parser("prepare")
    arguments = parser.parse_args()
    try:
        if arguments.command == "prepare":
            offline.prepare()
        else:
            engine.build(arguments.image, engine=arguments.engine, base=arguments.base, wheelhouse=arguments.wheelhouse)
    except engine.ImageError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
