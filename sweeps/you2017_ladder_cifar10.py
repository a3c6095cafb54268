"""A ladder of batch sizes with and without LARS, ResNet-20 on CIFAR-10: does LARS help there? No paper's table.

    lrbs run sweeps/you2017_ladder_cifar10.py --gpus-per-run 0.25 --bf16

You et al. 2017 show LARS on ImageNet; its gain on CIFAR-10 is disputed. Batches of 256 to 8192, lr in proportion to
them (Goyal et al.) with a warm-up over a twentieth of the training, then polynomial decay of power 2. SGD starts from
lr 0.1 at B 256; LARS, whose lr is of another size, from 1 with trust coefficient 0.001, so that B 8192 gets 32, about
the 30 of You's ResNet-50. Ghost batches of 128, weight decay 5e-4, 100 epochs.

Count convention: partial batches are kept, so that every image is seen.
Cost: 8 policies x 3 seeds of 100 epochs of 50000 images; a fast GPU takes minutes for each.
"""

from lrbs_core import Claim, Policy, Polynomial, RunSpec, Warmup

SOURCE = "after You, Gitman and Ginsburg 2017 (arXiv 1708.03888), on CIFAR-10"
CLAIMS = (
    Claim("LARS gains at a large batch", "sgd 4096", "test_accuracy", 0, relation="below", versus="lars 4096"),
    Claim("LARS gains at a large batch", "sgd 8192", "test_accuracy", 0, relation="below", versus="lars 8192"),
    Claim("LARS holds 8192 at 256's accuracy", "lars 8192", "test_accuracy", 0, tolerance=0.5, versus="lars 256"),
)
# Optimizer: lr at B 256, trust coefficient.
OPTIMIZERS = {"sgd": (0.1, None), "lars": (1.0, 0.001)}


def policy(lr: float, batch_size: int) -> Policy:
    falling = Policy(Polynomial(lr, 0, epochs=100, power=2), batch_size, momentum=0.9).linear_scaling(256)
    return Policy(Warmup(0, 5, falling.lr), batch_size, momentum=0.9)


def runs() -> list[RunSpec]:
    return [
        RunSpec(
            label=f"{optimizer} {batch_size}",
            policy=policy(lr, batch_size),
            dataset="cifar10",
            model="resnet20",
            optimizer=optimizer,
            trust_coefficient=trust_coefficient,
            weight_decay=5e-4,
            ghost_size=128,
            augmentation="flip_crop",
            normalization="channel",
            epochs=100,
            partial="keep",
            seed=seed,
        )
        for optimizer, (lr, trust_coefficient) in OPTIMIZERS.items()
        for batch_size in (256, 1024, 4096, 8192)
        for seed in range(3)
    ]


if __name__ == "__main__":
    from lrbs_core.cli import run_file

    run_file(__file__)
