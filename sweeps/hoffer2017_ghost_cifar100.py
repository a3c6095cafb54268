"""Hoffer et al. 2017: what a large batch loses and regains step by step, WRN-16-4 on CIFAR-100.

    lrbs run sweeps/hoffer2017_ghost_cifar100.py --gpus-per-run 1 --bf16

B 128 against 4096: as it is, with lr times sqrt(4096/128), with ghost batch norm of 128 too, and with regime
adaptation (epochs and drops times 32, so that the updates are as many). Expected: 73.70, 68.15, 69.05, 71.20 and
73.57 % (its code and slides). Taken, as not stated: lr 0.1, divided by 5 at epochs 60, 120, 160 of 200, momentum 0.9,
weight decay 5e-4, flips and crops, as in WRN's code. Without ghost norm a statistic is over the whole batch, so that
a micro-batch is one too.

Count convention: batches run on into the next epoch, so that 32 times the examples in 32 times the epochs are as many
updates, 78125. (The paper's code keeps an epoch's last, smaller batch: 83200 for 78200.)
Cost: 5 policies x 9 seeds of 200 epochs of 50000 images, 6400 epochs with regime adaptation; days on one GPU.
"""

from lrbs_core import Accuracies, Policy, RunSpec, Steps

SOURCE = "Hoffer, Hubara and Soudry 2017 (arXiv 1705.08741), WRN-16-4 on CIFAR-100"

small = Policy(Steps(0.1, at=(60, 120, 160), factor=1 / 5), batch_size=128, momentum=0.9)
large = Policy(small.lr, batch_size=4096, momentum=0.9)
raised = large.sqrt_scaling(reference_batch=128)
# Label: policy, ghost size, epochs, test accuracy.
POLICIES = {
    "small batch": (small, 128, 200, 73.70),
    "large batch": (large, 4096, 200, 68.15),
    "+ lr": (raised, 4096, 200, 69.05),
    "+ ghost": (raised, 128, 200, 71.20),
    "+ regime adaptation": (raised.stretched(32), 128, 6400, 73.57),
}
PAPER = Accuracies({label: value for label, (*_, value) in POLICIES.items()}, test_examples=10_000)
CLAIMS = (
    *PAPER.each("WRN-16-4, CIFAR-100", tolerance=0.5),
    PAPER.difference("A large batch loses", "large batch", "small batch", tolerance=0.75),
    PAPER.difference("lr regains", "+ lr", "large batch", tolerance=0.75),
    PAPER.difference("Ghost norm regains", "+ ghost", "+ lr", tolerance=0.75),
    PAPER.difference("Adaptation regains", "+ regime adaptation", "+ ghost", tolerance=0.75),
    PAPER.difference("The gap closes", "+ regime adaptation", "small batch", tolerance=0.75),
)


def runs() -> list[RunSpec]:
    return [
        RunSpec(
            label=label,
            policy=policy,
            dataset="cifar100",
            model="wrn_16_4",
            optimizer="sgd",
            weight_decay=5e-4,
            ghost_size=ghost_size,
            augmentation="flip_crop",
            normalization="channel",
            epochs=epochs,
            partial="carry",
            seed=seed,
        )
        for label, (policy, ghost_size, epochs, _) in POLICIES.items()
        for seed in range(9)
    ]


if __name__ == "__main__":
    from lrbs_core.cli import run_file

    run_file(__file__)
