"""A search through Ray Tune, as far as it can be told without a cluster: what stops it is raised in the end."""

import errno
from contextlib import nullcontext

import pytest
from made import made_spec
from ray.tune.search import Searcher

from lrbs_core import search_ray
from lrbs_core.journal import RunFolder
from lrbs_core.specs import Machine


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no space left"), ValueError("candidate"), KeyError("lr")])
def test_what_breaks_while_tune_asks_ends_the_search_and_is_raised_once_tune_is_done(error, tmp_path, monkeypatch):
    class Breaking:
        rungs = None
        left = iter([RunFolder.create(tmp_path, "made", made_spec())])

        def next(self):
            if folder := next(self.left, None):
                return folder
            raise error

    asked = []

    def fit(first, config, tune_config, cpus, gpus):
        asked.extend(tune_config.search_alg.suggest(f"{number}") for number in range(2))

    monkeypatch.setattr(search_ray, "joined", lambda *_: nullcontext())
    monkeypatch.setattr(search_ray, "fit", fit)
    with pytest.raises(type(error)) as raised:
        search_ray.search_on_ray(Breaking(), Machine(tmp_path))
    assert raised.value is error
    assert asked == [{"folder": str((tmp_path / "made" / made_spec().key).resolve())}, Searcher.FINISHED]
