"""Ray's niceness; Hypothesis' profiles, and how it makes a schedule of each kind: `st.from_type(Steps)`.

Values lie in [0.01, 1] before a factor, epochs in [0.1, 6], half of them decimals as a person writes them, since it is
those whose sums and products come out a bit off in floats.
"""

import os

from hypothesis import settings
from hypothesis import strategies as st

from lrbs_core.schedules import (
    Constant,
    Cosine,
    Exponential,
    ExpRange,
    FromOdds,
    Growth,
    Hann,
    Linear,
    Odds,
    Piecewise,
    Polynomial,
    Power,
    Product,
    Schedule,
    Shrinkage,
    Stages,
    Steps,
    Triangular,
    Triangular2,
    Warmup,
    Welch,
)

# Ray has its workers yield to all else, and so to the tests beside them.
os.environ |= {"RAY_worker_niceness": "0"}

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "default")

LEVELS = st.integers(10, 1000).map(lambda n: n / 1000) | st.floats(0.01, 1)
EPOCHS = st.integers(1, 60).map(lambda n: n / 10) | st.floats(0.1, 6)
GAMMAS = st.floats(0.2, 1)
BREAKS = st.lists(EPOCHS, max_size=4, unique=True).map(sorted)


def cyclic(kind: type[Schedule], *rest: st.SearchStrategy) -> st.SearchStrategy[Schedule]:
    bounds = st.lists(LEVELS, min_size=2, max_size=2).map(sorted)
    return st.builds(lambda bounds, *rest: kind(*bounds, *rest), bounds, EPOCHS, *rest)


MADE = {
    Constant: st.builds(Constant, LEVELS),
    Piecewise: BREAKS.flatmap(lambda at: st.builds(Piecewise, st.tuples(LEVELS, *(LEVELS for _ in at)), st.just(at))),
    Steps: st.builds(Steps, LEVELS, BREAKS, st.floats(0.1, 3)),
    Linear: st.builds(Linear, LEVELS, LEVELS, EPOCHS),
    Polynomial: st.builds(Polynomial, LEVELS, LEVELS, EPOCHS, st.floats(0.5, 3)),
    Cosine: st.builds(Cosine, LEVELS, LEVELS, EPOCHS),
    Exponential: st.builds(Exponential, LEVELS, GAMMAS),
    Triangular: cyclic(Triangular),
    Triangular2: cyclic(Triangular2),
    Welch: cyclic(Welch),
    Hann: cyclic(Hann),
    ExpRange: cyclic(ExpRange, GAMMAS, st.sampled_from(["both", "amplitude"])),
}
FLAT = st.one_of(MADE[Constant], MADE[Piecewise], MADE[Steps])


def warmups(then: st.SearchStrategy[Schedule]) -> st.SearchStrategy[Schedule]:
    return st.builds(Warmup, LEVELS, EPOCHS, then)


def stages(parts: st.SearchStrategy[Schedule]) -> st.SearchStrategy[Schedule]:
    return st.lists(st.tuples(EPOCHS, parts), min_size=1, max_size=3).map(Stages)


ANY = st.one_of(*MADE.values())
CURVES = st.one_of(ANY, warmups(stages(ANY)), stages(warmups(ANY)))
MADE |= {
    Warmup: warmups(CURVES),
    Stages: stages(FLAT) | stages(CURVES),
    Product: st.builds(Product, CURVES, FLAT) | st.builds(Product, CURVES, CURVES),
    Power: st.builds(Power, CURVES, st.floats(0.25, 2)),
    Growth: st.builds(Growth, CURVES, FLAT | CURVES, st.none() | EPOCHS, st.none() | st.floats(0.05, 10)),
    Shrinkage: st.builds(Shrinkage, CURVES),
    Odds: st.builds(
        Odds, CURVES, st.floats(50, 1000)
    ),  # of the factor 3 that a step may rise by, at most four in a row
    FromOdds: st.builds(FromOdds, CURVES, st.floats(0.5, 1000)),
}
for kind, strategy in MADE.items():
    st.register_type_strategy(kind, strategy)
st.register_type_strategy(Schedule, st.one_of(*MADE.values()))
