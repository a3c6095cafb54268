"""Where the cycles of a learning rate end, whatever its schedule. The curves themselves: tests/test_schedules.py."""

import pytest

from lrbs_core import Policy, one_cycle
from lrbs_core.schedules import (
    Constant,
    Cosine,
    ExpRange,
    Linear,
    Piecewise,
    Product,
    Stages,
    Steps,
    Triangular,
    Triangular2,
    Warmup,
    cycle_ends,
)

TURNS = {
    "whole cycles": (Triangular(0.1, 1, stepsize=2), 12, [4, 8, 12]),
    "stopped within a cycle": (Triangular(0.1, 1, stepsize=2), 11.9, [4, 8]),
    "stopped at a top": (Triangular(0.1, 1, stepsize=2), 10, [4, 8]),
    "halving": (Triangular2(0.1, 1, stepsize=0.1), 0.6, [0.2, 0.4, 0.6]),
    "from zero": (Triangular(0, 1, stepsize=1), 4, [2, 4]),
    "fading": (ExpRange(0.1, 1, stepsize=1, gamma=0.9, shrink="both"), 5, [2, 4]),
    "ever smaller cycles": (
        Stages(
            ((6.4, Triangular(1e-3, 5e-3, 0.8)), (2.4, Triangular(1e-4, 5e-4, 0.4)), (1.2, Triangular(1e-5, 5e-5, 0.2)))
        ),
        10,
        [1.6, 3.2, 4.8, 6.4, 7.2, 8.0, 8.8, 9.2, 9.6, 10],
    ),
    "warm restarts": (Stages(((2, Cosine(1, 0, epochs=2)), (3, Cosine(1, 0, epochs=3)))), 5, [2]),
    "square waves": (Piecewise((1, 0.1, 1, 0.1), at=(1, 2, 3)), 4, [2]),
    "decay within a rise": (Product(Triangular(0.1, 1, stepsize=2), Steps(1, at=(5, 8), factor=0.1)), 12, [4, 8, 12]),
    "an end of many digits": (
        Triangular(0.1, 1, stepsize=3e4 / 1281),
        12e4 / 1281,
        pytest.approx([6e4 / 1281, 12e4 / 1281]),
    ),
    "rounded beyond the end": (Triangular(0.1, 1, stepsize=0.1), 3 * 0.2 - 1e-16, [0.2, 0.4, 0.6]),
    "as many as can be": (Triangular(0.1, 1, stepsize=1e-3), 100, pytest.approx([n / 500 for n in range(1, 50_001)])),
    "none past the end": (Policy(Cosine(0.1, 0.0, 10), 8, 0.9).grow_batch().batch_size, 10, []),
    "constant": (Constant(0.1), 5, []),
    "steps": (Steps(0.1, at=(1, 2), factor=0.1), 3, []),
    "warm-up": (Warmup(0.01, epochs=1, then=Steps(0.1, at=(2,), factor=0.1)), 3, []),
    "a line": (Linear(1, 0, epochs=3), 3, []),
    "one cycle": (one_cycle(0.1, 3, 1, 3, 0.01, 16, (0.95, 0.85)).lr, 3, []),
    "a flat triangle": (Triangular(0.1, 0.1, stepsize=1), 4, []),
}


@pytest.mark.parametrize("case", TURNS)
def test_a_cycle_ends_where_the_lr_turns_from_falling_to_rising(case):
    lr, epochs, expected = TURNS[case]
    assert cycle_ends(lr, epochs) == expected
