"""Table 1 of L. N. Smith 2017, GoogLeNet on ImageNet: cyclical learning rates against fixed and exponential ones.

    lrbs run sweeps/smith2017_table1_googlenet.py --data-dir DIR --gpus-per-run 1 --bf16 --workers 16

B 128; cycles between 0.01 and 0.026 with stepsize 30000; gamma 0.99998 an update. Taken, as not stated: momentum 0.9,
weight decay 2e-4 and 'fixed' (0.01, times 0.96 at 320000 updates) as in Caffe's GoogLeNet; 'exp' starts at
exp_range's upper bound. Torchvision's GoogLeNet has batch norm (here over 128 images), no response norm, and is
trained without its auxiliary heads. Expected: see POLICIES. In none has lr fallen far by the end; the tolerance is
twice the deviation between seeds, as one run is known.

Count convention: none is stated in epochs; the last batch is carried over the epoch's edge, so that updates are as
stated.
Cost: 4 policies x 6 seeds of 24 to 42 epochs of 1281167 images, in DIR/imagenet/{train,val}/CLASS/IMAGE: a cluster.
"""

from lrbs_core import Accuracies, Claim, Exponential, ExpRange, Policy, RunSpec, Schedule, Steps, Triangular2
from lrbs_core import rate_an_epoch, to_epochs

SOURCE = "L. N. Smith 2017 (arXiv 1506.01186), Table 1, GoogLeNet"


def epochs(updates: int) -> float:
    return to_epochs(updates, batch_size=128, examples=1_281_167)


GAMMA = rate_an_epoch(0.99998, batch_size=128, examples=1_281_167)
STEPSIZE = epochs(30_000)
# Label: lr, updates, test accuracy.
POLICIES: dict[str, tuple[Schedule, int, float]] = {
    "fixed": (Steps(0.01, at=(epochs(320_000),), factor=0.96), 420_000, 63.0),
    "triangular2": (Triangular2(0.01, 0.026, STEPSIZE), 420_000, 64.4),
    "exp": (Exponential(0.026, gamma=GAMMA), 240_000, 58.2),
    "exp_range": (ExpRange(0.01, 0.026, STEPSIZE, GAMMA, shrink="both"), 240_000, 60.2),
}
ACCURACIES = {label: value for label, (_, _, value) in POLICIES.items()}
PAPER = Accuracies(ACCURACIES, test_examples=50_000, unsettled=ACCURACIES)
CLAIMS = (
    *(Claim("Table 1", label, "updates", updates, tolerance=1) for label, (_, updates, _) in POLICIES.items()),
    *PAPER.each("Table 1", tolerance=1.3),
    PAPER.below("Table 1, triangular2 gains", "fixed", "triangular2"),
    PAPER.below("Table 1, cycles gain on exp", "exp", "exp_range"),
)


def runs() -> list[RunSpec]:
    return [
        RunSpec(
            label=label,
            policy=Policy(lr, batch_size=128, momentum=0.9),
            dataset="imagenet",
            model="googlenet",
            optimizer="sgd",
            weight_decay=2e-4,
            ghost_size=128,
            augmentation="resized_crop",
            image_size=224,
            normalization="imagenet",
            epochs=epochs(updates),
            partial="carry",
            seed=seed,
        )
        for label, (lr, updates, _) in POLICIES.items()
        for seed in range(6)
    ]


if __name__ == "__main__":
    from lrbs_core.cli import run_file

    run_file(__file__)
