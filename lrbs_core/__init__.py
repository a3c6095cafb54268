"""lrbs: learning-rate / batch-size policies, planned, swept, logged and compared. Importing it needs numpy at most."""

from lrbs_core.claims import Accuracies, Claim
from lrbs_core.noise import noise_scale
from lrbs_core.planning import Plan, make_plan, rate_an_epoch, to_epochs, walk
from lrbs_core.policies import Policy, Setting, one_cycle
from lrbs_core.schedules import (
    Constant,
    Cosine,
    Exponential,
    ExpRange,
    Hann,
    Linear,
    Piecewise,
    Polynomial,
    Product,
    Schedule,
    Stages,
    Steps,
    Triangular,
    Triangular2,
    Warmup,
    Welch,
    warmup_linear,
    warmup_polynomial,
)
from lrbs_core.spaces import Choice, Range
from lrbs_core.specs import Machine, RunSpec
from lrbs_core.version import __version__

__all__ = [
    "Accuracies", "Choice", "Claim", "Constant", "Cosine", "ExpRange", "Exponential", "Hann", "Linear", "Machine",
    "Piecewise", "Plan", "Policy", "Polynomial", "Product", "Range", "RunSpec", "Schedule", "Setting", "Stages",
    "Steps", "Triangular", "Triangular2", "Warmup", "Welch", "__version__", "make_plan", "noise_scale", "one_cycle",
    "rate_an_epoch", "to_epochs", "walk", "warmup_linear", "warmup_polynomial",
]  # fmt: skip
