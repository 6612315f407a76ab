"""The command `hack/images/build`."""

from __future__ import annotations

import argparse
import os
import signal
import sys

from imagebuild.build import IMAGES, build_with_docker, build_without_engine
from imagebuild.commands import docker_answers
from imagebuild.errors import BuildError
from imagebuild.layers import LayerStore
from localcluster.locks import locked
from localcluster.paths import cache_directory, images_directory
from localcluster.progress import to_stderr


def main() -> None:
    """Build the images that are out of date."""
    parser = argparse.ArgumentParser(
        prog="hack/images/build",
        description="Builds the container images: with Docker where it runs, else as directories for `hack/cluster`.",
    )
    names = [image.name for image in IMAGES]
    parser.add_argument("--image", action="append", choices=names, help="only this one; may be repeated")
    parser.add_argument(
        "--engine", choices=["auto", "docker", "none"], default="auto", help="default: docker where it runs"
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing where there is nothing to do")
    options = parser.parse_args()
    say = to_stderr()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("hack/images/build: ended by SIGTERM"))
    # uv, where hack/setup puts it.
    os.environ["PATH"] = f"{cache_directory() / 'tools' / 'bin'}:{os.environ['PATH']}"
    wanted = [image for image in IMAGES if options.image is None or image.name in options.image]
    output = images_directory()
    try:
        with locked(output / ".lock", say, "another build of images"):
            if options.engine == "docker" or (options.engine == "auto" and docker_answers()):
                for image in wanted:
                    build_with_docker(image, output, say)
            else:
                used = {layer.directory for image in wanted for layer in build_without_engine(image, output, say)}
                if len(wanted) == len(IMAGES):
                    LayerStore(output / "layers", say).prune(used)
    except BuildError as error:
        sys.exit(f"hack/images/build: {error}")
    if not options.quiet:
        say(f"up to date: {', '.join(image.reference for image in wanted)}")


if __name__ == "__main__":
    main()
