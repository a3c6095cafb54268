"""A popular summary of You et al. 2017 (LARS): `warmup_linear` with AlexNet on ImageNet, B 256 against 8192.

    lrbs run sweeps/you2017_warmup_linear.py --data-dir DIR --gpus-per-run 1 --bf16 --workers 16

The summary's schedule is not the paper's: base/5 * (epoch/5) up to epoch 5, then base * (1 - epoch/total), base 0.1,
90 epochs; it jumps at epoch 5. Run here beside the paper's own schedule for 8192 (`warmup_polynomial`, lr 10,
which You's Table 3 gives 58.2 %), all with LARS. The summary's speed-up of 6.3 for B 8192 over 256 depends on the
machine and is no claim here; the updates saved are: a thirty-second remains.

Count convention: none is stated; partial batches are kept, so that every image is seen.
Cost: 3 policies x 3 seeds of 90 epochs of 1281167 images of 224 x 224, in DIR/imagenet/{train,val}/CLASS/IMAGE: a
cluster.
"""

from lrbs_core import Policy, RunSpec, Schedule, warmup_linear, warmup_polynomial

SOURCE = "a summary of You, Gitman and Ginsburg 2017 (arXiv 1708.03888)"
CLAIMS = ()

POLICIES: dict[str, tuple[int, Schedule]] = {
    "256, warmup_linear": (256, warmup_linear(0.1, epochs=90)),
    "8192, warmup_linear": (8192, warmup_linear(0.1, epochs=90)),
    "8192, polynomial": (8192, warmup_polynomial(10, warmup=2, epochs=90, power=2)),
}


def runs() -> list[RunSpec]:
    return [
        RunSpec(
            label=label,
            policy=Policy(lr, batch_size, momentum=0.9),
            dataset="imagenet",
            model="alexnet",
            optimizer="lars",
            trust_coefficient=0.001,
            weight_decay=5e-4,
            ghost_size=None,
            augmentation="resized_crop",
            image_size=224,
            normalization="imagenet",
            epochs=90,
            partial="keep",
            seed=seed,
        )
        for label, (batch_size, lr) in POLICIES.items()
        for seed in range(3)
    ]


if __name__ == "__main__":
    from lrbs_core.cli import run_file

    run_file(__file__)
