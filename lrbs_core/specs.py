"""Specs: all that defines one run (`RunSpec`, whose key is its identity), and what does not (`Machine`)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from lrbs_core.noise import noise_scale
from lrbs_core.planning import Partial, Plan, Update, make_plan, walk
from lrbs_core.policies import Policy, Setting, whole
from lrbs_core.schedules import exactly, extreme
from lrbs_core.schedules.base import listed

__all__ = ["EXAMPLES", "IMAGE_SUFFIXES", "MICRO_BATCH", "Machine", "RunSpec"]

# Training examples of the named datasets; of "imagefolder:NAME" the spec itself says how many there are.
EXAMPLES = {"digits": 1437, "cifar10": 50_000, "cifar100": 50_000, "imagenet": 1_281_167}

# Whole numbers below are floats too.
EXACT = 2**53
# More updates than any run makes: 800 epochs of ImageNet one example at a time. A plan takes minutes to count as many.
MOST_UPDATES = 10**9

# Most examples in one forward/backward by the kind of device, unless a machine says otherwise.
MICRO_BATCH = {"cpu": 128, "cuda": 2048}

# What counts as an image in an image folder.
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}

Optimizer = Literal["sgd", "nesterov", "lars", "adam", "adamw", "rmsprop", "adagrad", "adadelta"]
# Those whose update the noise scale lr (N/B - 1)/(1 - m) is of; the others divide by the size of the gradient.
OF_SGD = ("sgd", "nesterov")
# Those whose momentum is that of a mean of gradients, with weights that add up to 1; the others' velocity is a sum.
AVERAGING = ("adam", "adamw")
Augmentation = Literal["none", "flip", "flip_crop", "resized_crop"]
Normalization = Literal["channel", "mean_image", "imagenet"]

CHOICES = {
    "optimizer": get_args(Optimizer),
    "augmentation": get_args(Augmentation),
    "normalization": get_args(Normalization),
    "partial": get_args(Partial),
}

# Networks with layers that draw in training: dropout and stochastic depth (see `lrbs_core.draws`).
DRAWING = re.compile(r"alexnet|alexnet_bn|googlenet|vgg16|inception_resnet_v2|resnet\d+_stochastic")


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run: a policy, what it trains, and on what.

    - `label`: the policy's name in tables and charts; the only field that is not part of the key.
    - `dataset`: "digits", "cifar10", "cifar100", "imagenet" or "imagefolder:NAME"; `examples`: the size of its training
      set (known for the named ones).
    - `model`: a name of `lrbs_core.models`; `ghost_size`: examples per batch-norm statistic, None for a net without.
    - `optimizer`: a name of `lrbs_core.optimizers`, lr and momentum being the policy's; `weight_decay`: its factor.
    - `augmentation`: "none", "flip" (horizontal), "flip_crop" (and a crop of the image padded by 4, reflecting), or
      "resized_crop" (a part of 8 to 100 % of the image, resized to `image_size`, and flip), which is for image folders
      whose images differ in size or are too many to hold: they are then read as they are needed.
    - `normalization`: "channel" (mean 0, deviation 1 a channel), "mean_image" (0..255 less the mean image, as Caffe) or
      "imagenet" (ImageNet's usual mean and deviation a channel).
    - `epochs`: a float; `partial`: what becomes of an epoch's last partial batch (see `planning.walk`).
    - `evaluate_every_epochs`: how often a row is reported; the last update always reports one.
    - `trust_coefficient`: eta of LARS, None for the others; `decay_batch_norm`: whether `weight_decay` is for the
      scales and shifts of batch norm too; `image_size`: side of the crops of "resized_crop", None for the others.
    - `validation`: training examples set aside to judge by, drawn by seed within each class (`validation.split`): 0 for
      none, a share between 0 and 1, or how many. What is left to train on is N: `train_examples`.
    - `overrides`: (name, value) pairs by which a command line made this run from the sweep's own.

    Raises ValueError, naming the run, for a value outside its range.
    """

    label: str
    policy: Policy
    dataset: str
    model: str
    optimizer: Optimizer
    weight_decay: float
    ghost_size: int | None
    augmentation: Augmentation
    normalization: Normalization
    epochs: float
    partial: Partial
    seed: int
    evaluate_every_epochs: float = 1.0
    examples: int = 0
    overrides: tuple[tuple[str, str], ...] = ()
    trust_coefficient: float | None = None
    decay_batch_norm: bool = True
    image_size: int | None = None
    validation: float | int = 0

    def __post_init__(self) -> None:
        for name in ("weight_decay", "epochs", "evaluate_every_epochs", "trust_coefficient"):
            value = getattr(self, name)
            if isinstance(value, int) and not isinstance(value, bool):
                object.__setattr__(self, name, float(value))
        if self.examples == 0 and isinstance(self.dataset, str) and self.dataset in EXAMPLES:
            object.__setattr__(self, "examples", EXAMPLES[self.dataset])
        object.__setattr__(self, "overrides", tuple((name, value) for name, value in self.overrides))
        try:
            self._check()
        except ValueError as error:
            raise ValueError(f"run {self.label!r}: {error}") from None

    def _check(self) -> None:
        if not (
            isinstance(self.label, str) and self.label.strip() == self.label and self.label.isprintable() and self.label
        ):
            raise ValueError(f"label must be printable text, but got {self.label!r}")
        for name in ("dataset", "model"):
            if not (isinstance(getattr(self, name), str) and getattr(self, name)):
                raise ValueError(f"{name} must be a name, but got {getattr(self, name)!r}")
        if not (self.model.isascii() and self.model.isidentifier()):
            raise ValueError(f"model must be a name of letters, digits and _, but got {self.model!r}")
        if self.dataset not in EXAMPLES:
            require_image_folder(self.dataset)
        _whole_number("examples", self.examples, at_least=1)
        _whole_number("seed", self.seed, at_least=0)
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, but got {getattr(self, name)!r}")
        for name in ("epochs", "evaluate_every_epochs"):
            if not (isinstance(getattr(self, name), float) and 0 < getattr(self, name) < math.inf):
                raise ValueError(f"{name} > 0 must hold, but got {name}={getattr(self, name)}")
        if not (isinstance(self.weight_decay, float) and 0 <= self.weight_decay < math.inf):
            raise ValueError(f"weight_decay >= 0 must hold, but got weight_decay={self.weight_decay}")
        if max(self.examples, self.seed) >= EXACT or self.examples * self.epochs >= EXACT:
            raise ValueError(
                "examples times epochs, and seed, must be below 2**53 (whole numbers that a float can hold), "
                f"but got examples={self.examples}, epochs={self.epochs:g}, seed={self.seed}"
            )
        self._check_validation()
        self._check_optimizer()
        self._check_images()
        smallest, largest = (whole(extreme(self.policy.batch_size, self.epochs, highest)) for highest in (False, True))
        if not 1 <= smallest <= largest <= self.train_examples:
            batch_size = smallest if smallest < 1 else largest
            aside = f" but {self.validation_examples} set aside" if self.validation else ""
            raise ValueError(
                f"1 <= batch_size <= {self.train_examples} (the training examples{aside}) must hold in every epoch, "
                f"but got batch_size={batch_size}: cap it with grow_batch(max_batch_size=...)"
            )
        if self.train_examples * self.epochs > MOST_UPDATES * smallest:
            raise ValueError(
                f"examples times epochs must be at most {MOST_UPDATES:.0e} of the smallest batch, "
                f"but got examples={self.train_examples}, epochs={self.epochs:g}, batch_size={smallest}"
            )
        if next(self.walk(), None) is None:
            raise ValueError(
                f"at least one whole batch must fit where partial batches are dropped, but got batch_size={smallest} "
                f"in {self.epochs:g} epochs of {self.train_examples} examples"
            )
        if self.ghost_size is not None:
            _whole_number("ghost_size", self.ghost_size, at_least=2)
            if self.ghost_size > smallest:
                raise ValueError(
                    f"ghost_size <= batch_size must hold in every epoch, but got ghost_size={self.ghost_size}, "
                    f"batch_size={smallest}"
                )

    def _check_validation(self) -> None:
        share, value = isinstance(self.validation, float), self.validation
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < (1 if share else math.inf):
            raise ValueError(
                "validation must be 0, a share between 0 and 1, or a whole number of training examples, "
                f"but got validation={value!r}"
            )
        if value and not 1 <= self.validation_examples < self.examples:
            raise ValueError(
                f"validation must set aside 1 or more of the {self.examples} training examples, and leave one, "
                f"but got validation={value!r}, which is {self.validation_examples}"
            )

    def _check_optimizer(self) -> None:
        if (self.optimizer == "lars") != (self.trust_coefficient is not None):
            rule = "be given for lars" if self.optimizer == "lars" else f"be None for {self.optimizer}"
            raise ValueError(f"trust_coefficient must {rule}, but got trust_coefficient={self.trust_coefficient}")
        if self.trust_coefficient is not None and not (
            isinstance(self.trust_coefficient, float) and 0 < self.trust_coefficient < math.inf
        ):
            raise ValueError(
                f"trust_coefficient > 0 must hold (0.001 in the paper), "
                f"but got trust_coefficient={self.trust_coefficient!r}"
            )
        if not isinstance(self.decay_batch_norm, bool):
            raise ValueError(f"decay_batch_norm must be True or False, but got {self.decay_batch_norm!r}")
        if self.optimizer in ("adagrad", "adadelta") and extreme(self.policy.momentum, self.epochs, True) != 0:
            raise ValueError(f"{self.optimizer} has no momentum, so that the policy's must be 0")
        before = self.policy.traded_momentum
        if self.optimizer in AVERAGING and before is not None:
            raise ValueError(
                f"{self.optimizer} must not have raise_momentum or lower_momentum, as its update is a normalised mean "
                "of gradients: 1/(1 - beta1) does not enlarge it, "
                f"but got {self.policy.momentum(0.0):g} for {before:g}: "
                "make the policy with the momentum wanted, and trade lr and batch size alone"
            )

    def _check_images(self) -> None:
        if (self.augmentation == "resized_crop") != self.streamed:
            rule = "be given for" if self.augmentation == "resized_crop" else "be None without"
            raise ValueError(f"image_size must {rule} augmentation resized_crop, but got image_size={self.image_size}")
        if self.dataset == "imagenet" and not self.streamed:
            raise ValueError(f"imagenet needs augmentation resized_crop, but got augmentation={self.augmentation}")
        if self.streamed:
            _whole_number("image_size", self.image_size, at_least=8)
            if self.dataset != "imagenet" and not self.dataset.startswith("imagefolder:"):
                raise ValueError(f"resized_crop needs imagenet or an imagefolder:NAME, but got dataset={self.dataset}")
            if self.normalization != "imagenet":
                raise ValueError(f"resized_crop needs normalization imagenet, but got {self.normalization}")

    @property
    def streamed(self) -> bool:
        """Whether images are read from their files as they are needed, rather than held in memory."""
        return self.image_size is not None

    @property
    def validation_examples(self) -> int:
        """How many training examples are set aside."""
        return round(self.validation * self.examples) if isinstance(self.validation, float) else self.validation

    @property
    def train_examples(self) -> int:
        """N: the examples that are trained on, by which epochs, batch sizes and the noise scale go."""
        return self.examples - self.validation_examples

    @property
    def judged_by(self) -> Literal["validation_accuracy", "test_accuracy"]:
        """By what a choice between runs like this one is made: of a row, and the higher the better."""
        return "validation_accuracy" if self.validation else "test_accuracy"

    @property
    def key(self) -> str:
        """16 hex digits of the SHA-256 of everything but the label: the run's identity wherever it is kept.

        Optional fields count only where they differ from their default, so that a field added in a later version
        leaves the keys of older runs as they are. Where a later version brings the same spec to another end, what has
        changed counts too, so that a run of an older one does not pass for it (`superseded_key`).
        """
        return self._key(self._revisions())

    @property
    def superseded_key(self) -> str | None:
        """The key that older versions gave this spec, where it comes to another end now; else None."""
        return self._key([]) if self._revisions() else None

    def _key(self, revisions: list[str]) -> str:
        optional = {f.name: f.default for f in dataclasses.fields(self) if f.default is not dataclasses.MISSING}
        content = {
            name: value
            for name, value in self.to_dict().items()
            if name != "label" and not (name in optional and getattr(self, name) == optional[name])
        }
        if revisions:
            content["revisions"] = revisions
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def _revisions(self) -> list[str]:
        """What has changed, since keys were first given, in what a run such as this comes to."""
        revisions = []
        if DRAWING.fullmatch(self.model):
            revisions.append("draws by example and update")  # once torch's own, by micro-batch
        lowest, highest = (extreme(self.policy.momentum, self.epochs, high) for high in (False, True))
        if self.optimizer in ("adam", "adamw") and lowest < highest:
            revisions.append("beta1 by its product")  # once its last value to the power of the updates
        return revisions

    def walk(self) -> Iterator[Update]:
        """The updates of this run, in order (`planning.walk`)."""
        return walk(self.policy, self.train_examples, self.epochs, self.partial)

    def plan(self) -> Plan:
        """What this run costs (`planning.make_plan`), its noise scale NaN unless it `has_noise_scale`."""
        plan = make_plan(self.policy, self.train_examples, self.epochs, self.partial)
        if self.has_noise_scale:
            return plan
        phases = tuple(dataclasses.replace(phase, noise_scale=math.nan) for phase in plan.phases)
        return dataclasses.replace(plan, phases=phases)

    @property
    def has_noise_scale(self) -> bool:
        """Whether g = lr (N/B - 1)/(1 - m) is of this run's optimizer: of SGD with Nesterov's momentum or without."""
        return self.optimizer in OF_SGD

    def noise_scale(self, setting: Setting) -> float:
        """g of a setting of this run (`noise.noise_scale`); NaN unless it `has_noise_scale`."""
        return noise_scale(*setting, self.train_examples) if self.has_noise_scale else math.nan

    def shortened(self, factor: float) -> RunSpec:
        """The same run in `factor` times the epochs, every breakpoint of the policy moved with it."""
        if not 0 < factor < math.inf:
            raise ValueError(f"scale > 0 must hold, but got scale={factor}")
        return dataclasses.replace(self, epochs=exactly(self.epochs, factor), policy=self.policy.stretched(factor))

    def to_dict(self) -> dict[str, Any]:
        """JSON, the inverse of `from_dict`."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return values | {"policy": self.policy.to_dict(), "overrides": [list(pair) for pair in self.overrides]}

    @classmethod
    def from_dict(cls, value: Any) -> RunSpec:
        """The spec of `to_dict`. Raises ValueError on a missing, unknown or ill-formed field."""
        names = {f.name: f.default is dataclasses.MISSING for f in dataclasses.fields(cls)}
        required = {name for name, needed in names.items() if needed}
        if not isinstance(value, dict) or not required <= set(value) <= set(names):
            given = listed(value) if isinstance(value, dict) else reprlib.repr(value)
            raise ValueError(f"a run must have the fields {', '.join(names)}, but got {given}")
        pairs = value.get("overrides", [])
        if not (
            isinstance(pairs, list)
            and all(isinstance(pair, list) and [type(text) for text in pair] == [str, str] for pair in pairs)
        ):
            raise ValueError(f"overrides must be pairs of text, but got {reprlib.repr(pairs)}")
        policy = Policy.from_dict(value["policy"])
        try:
            return cls(**value | {"policy": policy})
        except (ArithmeticError, RecursionError, TypeError) as error:
            raise ValueError(f"a run must be made of finite numbers and plain text, but got neither: {error}") from None


def require_image_folder(dataset: str) -> None:
    """Raises ValueError unless it is "imagefolder:NAME", NAME a folder within the folder of datasets.

    >>> require_image_folder("imagefolder:../secrets")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: ... but got 'imagefolder:../secrets': give the NAME of a folder within --data-dir
    """
    name = dataset.removeprefix("imagefolder:")
    parts = name.split("/")
    if name == dataset or not name.isprintable() or "\\" in name or {"", ".", ".."} & set(parts):
        raise ValueError(
            f"dataset must be one of {', '.join(EXAMPLES)} or imagefolder:NAME, but got {dataset!r}: "
            "give the NAME of a folder within --data-dir"
        )


def _whole_number(name: str, value: Any, at_least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise ValueError(f"{name} must be a whole number >= {at_least}, but got {name}={value!r}")


@dataclass(frozen=True)
class Machine:
    """Where and how to run: what a spec comes to is the same but for rounding, and so none of it is in the key.

    Device, micro-batches, threads and `compile` change the order in which floats are added up, and so last bits, which
    training may carry further; never which examples come when, how they are augmented, and what is dropped. `bf16` is
    more: it rounds to 8 bits, and a report says so where runs that it compares differ in it; a run keeps to one of the
    two. `measure_noise` changes nothing.

    - `data_dir`: the folder that holds the datasets; `device`: "cpu", "cuda", "cuda:1", or "auto" (CUDA if there).
    - `micro_batch`: most examples in one forward/backward; None: 128 on a CPU (its cache), 2048 on a GPU, or the ghost
      size where that is more.
    - `threads`: CPU threads of a run. `workers`: processes that read a streamed image folder; 0: the run itself does.
    - `bf16`: autocast to bfloat16. `compile`: torch.compile.
    - `measure_noise`: whether rows tell the gradient noise scale (`noise_meter`), for an eighth more examples.
    - `checkpoint_seconds`: at least so long between two checkpoints.
    """

    data_dir: Path = Path("data")
    device: str = "auto"
    micro_batch: int | None = None
    threads: int = 1
    workers: int = 0
    bf16: bool = False
    compile: bool = False
    measure_noise: bool = False
    checkpoint_seconds: float = 10.0
