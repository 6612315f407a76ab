"""What can go wrong while an image is built."""


class BuildError(Exception):
    """An image cannot be built; the message says why and what to do next."""
