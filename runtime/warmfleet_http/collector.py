"""Python's collector of cycles, in a process that serves: it stops everything while it looks."""

import gc


def calm_the_collector() -> None:
    """Look for cycles less often, and not among what lives as long as the process: a fifth of a request's cost."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
