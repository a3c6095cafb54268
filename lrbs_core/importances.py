"""What mattered in a search: each name's share of the variance of an objective, and what no name alone explains."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lrbs_core.spaces import Choice, Point, Range, Space, Value

__all__ = ["IMPORTANCE", "REST", "importances"]

# Under this name beside those of the space, of which none can be the same: they are Python's.
REST = "interaction and noise"
FOLDS = 10
# Of the splines: at the ends of a range and at each quarter.
KNOTS = np.linspace(0, 1, 5)[:, None]
PENALTIES = np.geomspace(1e-3, 1e4, 15)
IMPORTANCE = (
    "covariance of each name's part of an additive model (splines and levels, ridge regression) with held-out values, "
    f"{FOLDS}-fold (Li et al. 2010); the rest is interaction, noise, and what so few trials cannot tell"
)


def importances(space: Space, points: Sequence[Point], values: Sequence[float]) -> dict[str, float]:
    """The share of each name in the variance of the values at these points, the largest first, and the rest.

    A model y = c + sum_i f_i(x_i) is fitted, f_i a spline over a range (of its logarithm where it is chosen by factors)
    or a number for each value of a choice. With f_i(x_i) told for points that the fit did not see,

        share_i = max(0, Cov(f_i(x_i), y) / Var(y)),    rest = 1 - sum_i share_i,

    all divided by their sum if that is above 1 (Li et al. 2010, Global sensitivity analysis for systems with
    independent and/or correlated inputs, J. Phys. Chem. A 114). Of names chosen independently a share is an estimate of
    Sobol's first-order index, Var(E[y|x_i]) / Var(y). As the model is additive and only held-out values count,
    interaction and noise are in the rest. So is what the trials are too few to tell: shares come out too small rather
    than too large. Over 30 trials pure noise reads 0.01 to 0.02 a name in the mean, and names of 0.5 and 0.2 beside 0.3
    of noise read 0.44 and 0.15; over 12 trials 0.31 and 0.11. A mean over several seeds holds less noise.

    Empty of fewer than three values, or where all are equal.

    >>> shares = importances({"lr": Range(0, 1), "depth": Range(0, 1)},
    ...     [{"lr": n / 10, "depth": n * 7 % 11 / 10} for n in range(11)], [n / 10 for n in range(11)])
    >>> {name: round(share, 1) for name, share in shares.items()}
    {'lr': 1.0, 'depth': 0.0, 'interaction and noise': 0.0}
    """
    # Loaded here, as it takes a second that the start of a search need not wait for.
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold

    # Means that are equal but for their rounding have nothing to share out.
    if len(values) < 3 or math.isclose(min(values), max(values)):
        return {}
    columns = [_columns(part, [point[name] for point in points]) for name, part in space.items()]
    # A share knows no unit, and the square of a loss can be too large for a float.
    x, y = np.hstack(columns), np.array(values) / np.abs(values).max()
    parts = np.zeros((len(space), len(y)))
    for fitted, held in KFold(min(FOLDS, len(y)), shuffle=True, random_state=0).split(x):
        terms = (x[held] - x[fitted].mean(axis=0)) * RidgeCV(PENALTIES).fit(x[fitted], y[fitted]).coef_
        ends = np.cumsum([column.shape[1] for column in columns])[:-1]
        parts[:, held] = [term.sum(axis=1) for term in np.split(terms, ends, axis=1)]
    shares = np.maximum(0, parts @ (y - y.mean()) / len(y) / y.var())
    shares /= max(1.0, shares.sum())
    found = {name: round(float(share), 4) for name, share in zip(space, shares, strict=True)}
    ordered = dict(sorted(found.items(), key=lambda item: -item[1]))
    return ordered | {REST: round(max(0.0, 1 - sum(found.values())), 4)}


def _columns(part: Range | Choice, values: Sequence[Value]) -> npt.NDArray[np.float64]:
    """What the model's part of a name is linear in, a row a value."""
    from sklearn.preprocessing import SplineTransformer

    if isinstance(part, Choice):
        return np.eye(len(part.values))[[part.values.index(value) for value in values]]
    place = np.log if part.log else np.asarray
    low, high, at = (place(np.array(numbers, float)) for numbers in (part.low, part.high, values))
    splines: npt.NDArray[np.float64] = SplineTransformer(knots=KNOTS).fit_transform((at - low)[:, None] / (high - low))
    return splines
