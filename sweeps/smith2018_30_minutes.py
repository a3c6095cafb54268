"""Section 5.4 of Smith et al. 2018: ResNet-50 on ImageNet in 30 minutes, the batch doubled after epoch 30.

    lrbs run sweeps/smith2018_30_minutes.py --data-dir DIR --gpus-per-run 1 --bf16 --micro-batch 256 --workers 16

Goyal et al.'s settings (see goyal2017_batch_sizes.py), at four batch sizes. '8192 then 16384' is Goyal's policy at
8192 with the first decay traded for growth, up to 16384, and lr taking the rest; that lr falls by 5 there, not by 10,
follows from equal lr/(B (1 - m)) and is not stated. Expected: 75.7, 76.1, 75.0 and 65.4 %, on 64 TPUv2 devices in 29.8,
under 30, 22.3 and 17.5 minutes; times depend on the machine and are no claims here.

Count convention: none is stated; partial batches are kept, so that every image is seen.
Cost: 4 policies x 6 seeds of 90 epochs of 1281167 images of 224 x 224, in DIR/imagenet/{train,val}/CLASS/IMAGE: a
cluster.
"""

from lrbs_core import Accuracies, Policy, RunSpec, Steps, Warmup

SOURCE = "Smith, Kindermans, Ying and Le 2018 (arXiv 1711.00489), section 5.4"
PAPER = Accuracies({"8192": 75.7, "8192 then 16384": 76.1, "16384": 75.0, "65536": 65.4}, test_examples=50_000)
CLAIMS = (
    *PAPER.each("Section 5.4", 0.3, ("8192", "8192 then 16384", "16384")),
    *PAPER.each("Section 5.4", 0.5, ("65536",)),
)


def goyal(batch_size: int) -> Policy:
    lr = Steps(0.1 * batch_size / 256, at=(30, 60, 80), factor=1 / 10)
    return Policy(lr=Warmup(0.1, epochs=5, then=lr), batch_size=batch_size, momentum=0.9)


POLICIES = {
    "8192": goyal(8192),
    "8192 then 16384": goyal(8192).grow_batch(max_batch_size=16_384),
    "16384": goyal(16_384),
    "65536": goyal(65_536),
}


def runs() -> list[RunSpec]:
    return [
        RunSpec(
            label=label,
            policy=policy,
            dataset="imagenet",
            model="imagenet_resnet50",
            optimizer="nesterov",
            weight_decay=1e-4,
            decay_batch_norm=False,
            ghost_size=32,
            augmentation="resized_crop",
            image_size=224,
            normalization="imagenet",
            epochs=90,
            partial="keep",
            seed=seed,
        )
        for label, policy in POLICIES.items()
        for seed in range(6)
    ]


if __name__ == "__main__":
    from lrbs_core.cli import run_file

    run_file(__file__)
