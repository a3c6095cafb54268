"""A discovery over a Ray cluster: one generation after another, each run in parallel, all within one session."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack

from ray import tune

from lrbs_core.cluster import fit, joined
from lrbs_core.journal import RunFolder
from lrbs_core.specs import Machine

__all__ = ["discover_on_ray"]


def discover_on_ray(
    rounds: Iterable[Sequence[RunFolder]],
    machine: Machine,
    *,
    cpus: float = 1,
    gpus: float = 0,
    address: str | None = None,
) -> None:
    """Runs each round before it asks for the next, each run on `cpus` and `gpus`, as many at once as there is room for.

    As `cluster.run_on_ray` otherwise, but joins once, and only if there is something to run: a process that leaves a
    cluster and joins another may be ended by Ray for what is left of the first.
    """
    with ExitStack() as session:
        outside = True
        for left in filter(None, rounds):
            if outside:
                session.enter_context(joined(address, cpus, gpus))
                outside = False
            folders = tune.grid_search([str(folder.path.resolve()) for folder in left])
            fit(left[0], {"folder": folders, "machine": machine}, tune.TuneConfig(reuse_actors=True), cpus, gpus)
