"""L. N. Smith 2017, section 4.1: cyclical learning rates with sigmoids and batch norm, Caffe's example net on CIFAR-10.

    lrbs run sweeps/smith2017_sigmoid_cifar10.py

Caffe's cifar10_full_sigmoid_bn. Expected: 60.8 % with the fixed rate, 72.2 % with the cyclical one. Taken, as not
stated: the settings of Table 1 (B 100, momentum 0.9, weight decay 0.004; 'fixed' 0.001 with a tenth from update 60000
and a hundredth from 65000; triangular between 0.001 and 0.006, stepsize 2000), 70000 updates for both, a whole batch
a batch-norm statistic. The cycles end at a top, where seeds differ more; the tolerance is twice that deviation, as one
run is known.

Count convention: none is needed, B divides N. Cost: 2 policies x 5 seeds, 7 million images each.
"""

from lrbs_core import Accuracies, Policy, RunSpec, Schedule, Steps, Triangular, to_epochs

SOURCE = "L. N. Smith 2017 (arXiv 1506.01186), section 4.1, sigmoid and batch norm"


def epochs(updates: int) -> float:
    return to_epochs(updates, batch_size=100, examples=50_000)


PAPER = Accuracies({"fixed": 60.8, "triangular": 72.2}, test_examples=10_000, unsettled=["triangular"])
CLAIMS = (
    *PAPER.each("Section 4.1", 1, ["fixed"]),
    *PAPER.each("Section 4.1", 2.5, ["triangular"]),
    PAPER.below("Section 4.1, CLR gains", "fixed", "triangular"),
)
POLICIES: dict[str, Schedule] = {
    "fixed": Steps(0.001, at=(epochs(60_000), epochs(65_000)), factor=0.1),
    "triangular": Triangular(0.001, 0.006, stepsize=epochs(2000)),
}


def runs() -> list[RunSpec]:
    return [
        RunSpec(
            label=label,
            policy=Policy(lr, batch_size=100, momentum=0.9),
            dataset="cifar10",
            model="caffe_sigmoid_bn",
            optimizer="sgd",
            weight_decay=0.004,
            ghost_size=100,
            augmentation="none",
            normalization="mean_image",
            epochs=epochs(70_000),
            partial="keep",
            seed=seed,
        )
        for label, lr in POLICIES.items()
        for seed in range(5)
    ]


if __name__ == "__main__":
    from lrbs_core.cli import run_file

    run_file(__file__)
