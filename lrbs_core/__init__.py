"""lrbs: learning-rate / batch-size policies, planned, swept, logged and compared. Importing it needs numpy at most."""

from lrbs_core.claims import Claim
from lrbs_core.noise import noise_scale
from lrbs_core.planning import Plan, make_plan, walk
from lrbs_core.policies import Policy, Setting
from lrbs_core.schedules import (
    Constant,
    Cosine,
    Exponential,
    ExpRange,
    Linear,
    Piecewise,
    Polynomial,
    Schedule,
    Stages,
    Steps,
    Triangular,
    Triangular2,
    Warmup,
)
from lrbs_core.specs import Machine, RunSpec
from lrbs_core.version import __version__

__all__ = [
    "Claim", "Constant", "Cosine", "ExpRange", "Exponential", "Linear", "Machine", "Piecewise", "Plan", "Policy",
    "Polynomial", "RunSpec", "Schedule", "Setting", "Stages", "Steps", "Triangular", "Triangular2", "Warmup",
    "__version__", "make_plan", "noise_scale", "walk",
]  # fmt: skip
