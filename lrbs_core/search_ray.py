"""A search over a Ray cluster: Tune asks for runs as workers come free, and tells of those that have ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from lrbs_core.cluster import fit, joined
from lrbs_core.journal import RunFolder
from lrbs_core.search import Search
from lrbs_core.specs import Machine

__all__ = ["search_on_ray"]


def search_on_ray(
    search: Search, machine: Machine, *, cpus: float = 1, gpus: float = 0, address: str | None = None
) -> None:
    """Runs the search, each run on `cpus` and `gpus`, as many at once as the cluster has room for.

    As `cluster.run_on_ray` otherwise. Raises what choosing a candidate did, such as ValueError for one that cannot be.
    """
    first = search.next()
    if first is None:
        return
    runs = _Runs(search, first)
    with joined(address, cpus, gpus):
        # The searcher says when it is over; so many samples are never reached.
        config = tune.TuneConfig(search_alg=runs, num_samples=-1, reuse_actors=True)
        fit(first, {"machine": machine, "rungs": search.rungs}, config, cpus, gpus)
    if runs.error is not None:
        raise runs.error


class _Runs(Searcher):  # type: ignore[misc]
    """The runs of a search, as Tune asks for them. What came of one is in its journal, so that it need not be told."""

    def __init__(self, search: Search, first: RunFolder) -> None:
        super().__init__()
        self.search = search
        self.first: RunFolder | None = first
        self.error: Exception | None = None

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        folder, self.first = self.first, None
        try:
            folder = folder or self.search.next()
        except Exception as error:
            # Raised once Tune has let the runs in flight come to their end.
            self.error = error
        return Searcher.FINISHED if folder is None else {"folder": str(folder.path.resolve())}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing to note."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune saves its searcher to go on from, but a search goes on from its record and journals."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()
