"""Validation data: which training examples are set aside, and what is said of numbers by what they were judged.

Whoever chooses by the test set (a policy, a rate, when to stop) has no test set left: the best of many looks is
flattered by the choice. So what chooses looks at training examples that are not trained on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["JUDGED", "SET_ASIDE", "JudgedOn", "judged_on", "shares", "split"]

# What a search, a discovery and a range test set aside of runs that set nothing aside themselves.
SET_ASIDE = 0.1

JudgedOn = Literal["validation", "test", "training"]
# The sentence beside numbers that something was chosen by.
JUDGED: dict[JudgedOn, str] = {
    "validation": "judged by validation data, set aside of the training set; test data are for the report alone",
    "test": "judged by TEST data, so that test numbers flatter what was chosen: judge by data set aside (--validation)",
    "training": "judged by training alone; test data are for the report alone",
}


def judged_on(metrics: Iterable[str]) -> JudgedOn:
    """On which data a choice by these metrics of a row rests: on test data, if any of them is.

    >>> judged_on(["validation_accuracy", "updates"]), judged_on(["validation_accuracy", "test_loss"])
    ('validation', 'test')
    """
    kinds = {metric.partition("_")[0] for metric in metrics}
    return "test" if "test" in kinds else "validation" if "validation" in kinds else "training"


def shares(sizes: ArrayLike, count: int) -> NDArray[np.int64]:
    """How many of `count` examples are of each class, in proportion to the classes' sizes, by largest remainder.

    Each class gives floor(count n_c / n), and those with the largest remainders one more, the first of equal ones first
    (Hamilton's method), so that they add up to `count` and none is off its exact share by 1. Raises ValueError where a
    class would have none that is set aside, or none that is trained on.

    >>> shares([50, 30, 20], 15).tolist()
    [8, 4, 3]
    """
    sizes = np.asarray(sizes, np.int64)
    given, rest = np.divmod(sizes * count, sizes.sum())
    given[np.argsort(-rest, kind="stable")[: count - given.sum()]] += 1
    bad = np.flatnonzero((given == 0) | (given >= sizes))
    if count and len(bad):
        number, fix = bad[0], "more" if given[bad[0]] == 0 else "fewer"
        raise ValueError(
            f"validation must set aside and leave an example of every class, but {count} in all are {given[number]} of "
            f"the {sizes[number]} of class number {number}: set {fix} aside"
        )
    return given


def split(labels: ArrayLike, count: int, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The examples that are trained on and the `count` that are set aside, both in their own order.

    Of each class (`shares`) those that come first in one random order, which depends on the seed and the number of
    examples alone: not on the policy, so that runs of one seed have the same, and not on the order of any epoch. Raises
    ValueError as `shares` does.

    >>> kept, aside = split([0, 1] * 10, count=4, seed=0)
    >>> len(kept), sorted((aside % 2).tolist())
    (16, [0, 0, 1, 1])
    """
    labels = np.asarray(labels)
    if count == 0:
        return np.arange(len(labels)), np.arange(0)
    sizes = np.unique(labels, return_counts=True)[1]
    # A bit generator's raw numbers are the same in every version of numpy; `spawn_key` keeps off the epochs' own seeds.
    draws = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(0,))).random_raw(len(labels))
    by_class = np.split(np.lexsort((draws, labels)), sizes.cumsum()[:-1])
    aside = np.zeros(len(labels), bool)
    for members, share in zip(by_class, shares(sizes, count), strict=True):
        aside[members[:share]] = True
    return np.flatnonzero(~aside), np.flatnonzero(aside)
