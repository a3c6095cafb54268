"""Table 1 of L. N. Smith 2017, AlexNet on ImageNet: cyclical learning rates against fixed and exponential ones.

    lrbs run sweeps/smith2017_table1_alexnet.py --data-dir DIR --gpus-per-run 1 --bf16 --workers 16

B 256; triangular2 between 0.01 and 0.015 with stepsize 30000; exp_range between 0.006 and 0.014, both bounds times
0.999995 an update. Taken, as not stated: 'fixed' as Caffe's AlexNet solver (0.01, a tenth every 100000 updates,
momentum 0.9, weight decay 5e-4); the same drops under triangular2, whose bounds alone would never fall below 0.01;
'exp' starts at exp_range's upper bound. Torchvision's AlexNet has one tower and no response norm. Expected: see
POLICIES. Where lr has not fallen, the tolerance is twice the deviation between seeds, as one run is known; by it the
0.5 % of exp_range over exp would want 32 seeds, so that no claim is made of them.

Count convention: none is stated in epochs; the last batch is carried over the epoch's edge, so that updates are as
stated.
Cost: 5 policies x 7 seeds of 60 to 92 epochs of 1281167 images, in DIR/imagenet/{train,val}/CLASS/IMAGE: a cluster.
"""

from lrbs_core import Accuracies, Claim, Exponential, ExpRange, Policy, Product, RunSpec, Schedule, Steps, Triangular2
from lrbs_core import rate_an_epoch, to_epochs

SOURCE = "L. N. Smith 2017 (arXiv 1506.01186), Table 1, AlexNet"


def epochs(updates: int) -> float:
    return to_epochs(updates, batch_size=256, examples=1_281_167)


GAMMA = rate_an_epoch(0.999995, batch_size=256, examples=1_281_167)
DROPS = tuple(map(epochs, (100_000, 200_000, 300_000)))
EXP = Exponential(0.014, gamma=GAMMA)
# Label: lr, updates, test accuracy.
POLICIES: dict[str, tuple[Schedule, int, float]] = {
    "fixed": (Steps(0.01, at=DROPS, factor=0.1), 400_000, 58.0),
    "triangular2": (
        Product(Triangular2(0.01, 0.015, stepsize=epochs(30_000)), Steps(1, at=DROPS, factor=0.1)), 400_000, 58.4
    ),
    "exp 300k": (EXP, 300_000, 56.0),
    "exp 460k": (EXP, 460_000, 56.5),
    "exp_range": (ExpRange(0.006, 0.014, epochs(30_000), GAMMA, shrink="both"), 300_000, 56.5),
}  # fmt: skip
ACCURACIES = {label: value for label, (_, _, value) in POLICIES.items()}
PAPER = Accuracies(ACCURACIES, test_examples=50_000, unsettled=["exp 300k", "exp 460k", "exp_range"])
CLAIMS = (
    *(Claim("Table 1", label, "updates", updates, tolerance=1) for label, (_, updates, _) in POLICIES.items()),
    *PAPER.each("Table 1", 0.5, ["fixed", "triangular2"]),
    *PAPER.each("Table 1", 1.4, PAPER.unsettled),
    PAPER.below("Table 1, triangular2 gains", "fixed", "triangular2"),
)


def runs() -> list[RunSpec]:
    return [
        RunSpec(
            label=label,
            policy=Policy(lr, batch_size=256, momentum=0.9),
            dataset="imagenet",
            model="alexnet",
            optimizer="sgd",
            weight_decay=5e-4,
            ghost_size=None,
            augmentation="resized_crop",
            image_size=224,
            normalization="imagenet",
            epochs=epochs(updates),
            partial="carry",
            seed=seed,
        )
        for label, (lr, updates, _) in POLICIES.items()
        for seed in range(7)
    ]


if __name__ == "__main__":
    from lrbs_core.cli import run_file

    run_file(__file__)
