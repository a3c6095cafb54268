"""Figures: each is two functions, the numbers (a tidy frame) and the drawing (an Altair chart that works out nothing).

A chart takes `policies`, all labels of the sweep in order, so that a policy looks the same in every figure of the
sweep, also in those that lack another one; without it the policies that are drawn count as all.
"""

from lrbs_core.figures.curves import (
    accuracy_chart,
    accuracy_numbers,
    left_out,
    metric_chart,
    metric_numbers,
    seconds_numbers,
)
from lrbs_core.figures.cycles import cycles_chart, cycles_numbers
from lrbs_core.figures.drawing import COLOURS, DASHES, require_format, save, svg
from lrbs_core.figures.front import front_chart, front_numbers
from lrbs_core.figures.heat import heat_chart, heat_numbers
from lrbs_core.figures.noise import noise_chart, noise_numbers
from lrbs_core.figures.ranges import range_chart, range_numbers
from lrbs_core.figures.settings import settings_chart, settings_numbers
from lrbs_core.figures.trade import trade_chart, trade_numbers

__all__ = [
    "COLOURS", "DASHES", "accuracy_chart", "accuracy_numbers", "cycles_chart", "cycles_numbers", "front_chart",
    "front_numbers", "heat_chart", "heat_numbers", "left_out", "metric_chart", "metric_numbers", "noise_chart",
    "noise_numbers", "range_chart", "range_numbers", "require_format", "save", "seconds_numbers", "settings_chart",
    "settings_numbers", "svg", "trade_chart", "trade_numbers",
]  # fmt: skip
