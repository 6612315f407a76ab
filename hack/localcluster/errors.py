"""The one error of this package."""


class ClusterError(Exception):
    """The local cluster can't do what was asked; the message says why and what to type next."""
