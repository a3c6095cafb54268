"""Table 1 of L. N. Smith 2017, CIFAR-10: cyclical learning rates against fixed and decaying ones, Caffe's example net.

    lrbs run sweeps/smith2017_table1_cifar10.py

Caffe's cifar10_full with its solver's momentum 0.9 and weight decay 0.004, B 100 (500 updates an epoch), images less
the mean image, no augmentation. 'fixed' is the solver's own: 0.001 for 60000 updates, a tenth of it for 5000, a
hundredth for 5000. '25k triangular2' is staged by hand in the paper's text, each stage with bounds of its own.
'decay' falls from 0.007 to 0.001 over one stepsize of 4000 and stays there. exp_range shrinks both bounds, as the
text says. Not stated for 'exp': where it starts; taken as the upper bound, 0.006, so that it is exp_range without the
cycles.

Count convention: none is needed, B divides N. Cost: 5 policies x 18 seeds, 25000 to 70000 updates of 100 images each,
together 418 million images; about 1100 images a second on one CPU core (1600 with --bf16 where it has AVX512-BF16).
"""

from lrbs_core import Accuracies, Choice, Claim, Exponential, ExpRange, Linear, Policy, Range, RunSpec, Schedule
from lrbs_core import Stages, Steps, Triangular, rate_an_epoch, to_epochs

SOURCE = "L. N. Smith 2017 (arXiv 1506.01186), Table 1, CIFAR-10"


def epochs(updates: int) -> float:
    return to_epochs(updates, batch_size=100, examples=50_000)


GAMMA = rate_an_epoch(0.99994, batch_size=100, examples=50_000)
STAGES = (
    (epochs(16_000), Triangular(0.001, 0.005, stepsize=epochs(2000))),
    (epochs(6000), Triangular(0.0001, 0.0005, stepsize=epochs(1000))),
    (epochs(3000), Triangular(0.00001, 0.00005, stepsize=epochs(500))),
)
# Label: lr, updates, test accuracy in Table 1.
POLICIES: dict[str, tuple[Schedule, int, float]] = {
    "fixed": (Steps(0.001, at=(epochs(60_000), epochs(65_000)), factor=0.1), 70_000, 81.4),
    "triangular2": (Stages(STAGES), 25_000, 81.4),
    "decay": (Linear(0.007, 0.001, epochs=epochs(4000)), 25_000, 78.5),
    "exp": (Exponential(0.006, gamma=GAMMA), 70_000, 79.1),
    "exp_range": (ExpRange(0.001, 0.006, stepsize=epochs(2000), gamma=GAMMA, shrink="both"), 42_000, 82.2),
}
ACCURACIES = {label: value for label, (_, _, value) in POLICIES.items()}
PAPER = Accuracies(ACCURACIES, test_examples=10_000, unsettled=["decay", "exp_range"])
CLAIMS = (
    *(Claim("Table 1", label, "updates", updates) for label, (_, updates, _) in POLICIES.items()),
    *PAPER.each("Table 1", tolerance=1),
    PAPER.difference("Table 1, equal in a third of the updates", "triangular2", "fixed", tolerance=0.5),
    PAPER.below("Table 1, not by decay alone", "decay", "triangular2"),
    PAPER.below("Table 1, exp_range gains", "fixed", "exp_range"),
    PAPER.below("Table 1, cycles gain on exp", "exp", "exp_range"),
)


# Section 3.2 recommends 2 to 10 epochs for half a cycle, and bounds within those of a range test.
SPACE = {"stepsize": Choice(2, 4, 6, 8, 10), "high": Range(0.002, 0.02, log=True)}


def spec(label: str, lr: Schedule, updates: int, seed: int) -> RunSpec:
    policy = Policy(lr=lr, batch_size=100, momentum=0.9)
    return RunSpec(
        label=label, policy=policy, dataset="cifar10", model="caffe_full", optimizer="sgd", weight_decay=0.004,
        ghost_size=None, augmentation="none", normalization="mean_image", epochs=epochs(updates), partial="keep",
        seed=seed,
    )  # fmt: skip


def runs() -> list[RunSpec]:
    return [spec(label, lr, updates, seed) for label, (lr, updates, _) in POLICIES.items() for seed in range(18)]


def candidate(seed: int, *, stepsize: float, high: float) -> RunSpec:
    return spec("triangular", Triangular(0.001, high, stepsize), 25_000, seed)


if __name__ == "__main__":
    from lrbs_core.cli import run_file

    run_file(__file__)
