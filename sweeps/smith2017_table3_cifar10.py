"""Table 3 of L. N. Smith 2017: cyclical learning rates with five other optimizers, Caffe's example net on CIFAR-10.

    lrbs run sweeps/smith2017_table3_cifar10.py

Fixed rate for 70000 updates against triangular for 25000 (with Adam and RMSprop for 70000 too), stepsize 2000, bounds
of each optimizer's own. Taken, as not stated: 'fixed' stays at the lower bound, a tenth of it from update 60000 and a
hundredth from 65000, as Caffe's solver; momentum 0.9 for Nesterov and as Adam's beta1, none for the others; weight
decay 0.004 as an L2 term; two numbers are read as fixed 70k, triangular 25k. No cycle ends at its bottom.

Count convention: none is needed, B divides N. Cost: 12 policies x 16 seeds, 2.5 or 7 million images each.
"""

from lrbs_core import Accuracies, Policy, RunSpec, Steps, Triangular, to_epochs

SOURCE = "L. N. Smith 2017 (arXiv 1506.01186), Table 3"


def epochs(updates: int) -> float:
    return to_epochs(updates, batch_size=100, examples=50_000)


# Optimizer: lower and upper bound, momentum, test accuracy fixed 70k, triangular 25k, triangular 70k.
TABLE = {
    "nesterov": (0.001, 0.006, 0.9, 82.1, 81.3, None),
    "adam": (0.0005, 0.002, 0.9, 81.4, 79.8, 81.1),
    "rmsprop": (0.0001, 0.0003, 0.0, 75.2, 72.8, 75.1),
    "adagrad": (0.003, 0.035, 0.0, 74.6, 76.0, None),
    "adadelta": (0.01, 0.1, 0.0, 67.3, 67.3, None),
}
# Label, optimizer, updates, policy, test accuracy.
CELLS = [
    (f"{optimizer} {kind} {updates // 1000}k", optimizer, updates, Policy(lr, batch_size=100, momentum=momentum), value)
    for optimizer, (low, high, momentum, *values) in TABLE.items()
    for (kind, updates, lr), value in zip(
        (
            ("fixed", 70_000, Steps(low, at=(epochs(60_000), epochs(65_000)), factor=0.1)),
            ("triangular", 25_000, Triangular(low, high, stepsize=epochs(2000))),
            ("triangular", 70_000, Triangular(low, high, stepsize=epochs(2000))),
        ),
        values,
        strict=True,
    )
    if value is not None
]
ACCURACIES = {label: value for label, *_, value in CELLS}
FIXED, CYCLES = ([label for label in ACCURACIES if kind in label] for kind in ("fixed", "triangular"))
PAPER = Accuracies(ACCURACIES, test_examples=10_000, unsettled=CYCLES)
CLAIMS = (
    *PAPER.each("Table 3", 1, FIXED),
    *PAPER.each("Table 3", 1.5, CYCLES),
    *(
        PAPER.below("Table 3, fixed is above", f"{optimizer} triangular 25k", f"{optimizer} fixed 70k")
        for optimizer in ("nesterov", "adam", "rmsprop")
    ),
    PAPER.below("Table 3, cycles are above", "adagrad fixed 70k", "adagrad triangular 25k"),
    PAPER.below("Table 3, length helps", "adam triangular 25k", "adam triangular 70k"),
    PAPER.below("Table 3, length helps", "rmsprop triangular 25k", "rmsprop triangular 70k"),
    PAPER.difference("Table 3, equal in as many", "adam triangular 70k", "adam fixed 70k", tolerance=1),
    PAPER.difference("Table 3, equal in as many", "rmsprop triangular 70k", "rmsprop fixed 70k", tolerance=1.5),
    PAPER.difference("Table 3, equal", "adadelta triangular 25k", "adadelta fixed 70k", tolerance=1.5),
)


def runs() -> list[RunSpec]:
    settings = {
        "dataset": "cifar10", "model": "caffe_full", "weight_decay": 0.004, "ghost_size": None, "augmentation": "none",
        "normalization": "mean_image", "partial": "keep",
    }  # fmt: skip
    return [
        RunSpec(label=label, policy=policy, optimizer=optimizer, epochs=epochs(updates), seed=seed, **settings)
        for label, optimizer, updates, policy, _ in CELLS
        for seed in range(16)
    ]


if __name__ == "__main__":
    from lrbs_core.cli import run_file

    run_file(__file__)
