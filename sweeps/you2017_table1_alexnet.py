"""Table 1 of You et al. 2017: AlexNet on ImageNet at large batches without LARS, with and without batch norm.

    lrbs run sweeps/you2017_table1_alexnet.py --data-dir DIR --gpus-per-run 1 --bf16 --workers 16

SGD with momentum 0.9 and weight decay 5e-4, warm-up and then polynomial decay of power 2 over 100 epochs; a grid of
lr at each batch size. Expected: plain AlexNet falls from 58.8 % at B 512 to 44.8 % at 8192 and diverges (0.1 %) at lr
0.05 to 0.07; with batch norm 60.2 % falls to 58.0 % only. Taken, as not stated: warm-up from 0 over 2 epochs (5 with
batch norm) to the stated lr, as in Table 3; the polynomial counted from epoch 0, as in the authors' code (see
`warmup_polynomial`); batch norm over 128 images. Of what diverged no claim is made: it has no accuracy here.

Count convention: none is stated; partial batches are kept, so that every image is seen.
Cost: 18 policies x 6 seeds of 100 epochs of 1281167 images of 224 x 224, in DIR/imagenet/{train,val}/CLASS/IMAGE: a
cluster.
"""

from lrbs_core import Accuracies, Policy, RunSpec, warmup_polynomial

SOURCE = "You, Gitman and Ginsburg 2017 (arXiv 1708.03888), Table 1"
# Network: warm-up epochs, ghost size, and (batch size, lr): test accuracy.
ALEXNET = {
    (512, 0.02): 58.8,
    (4096, 0.04): 53.0, (4096, 0.05): 53.1, (4096, 0.06): 51.6, (4096, 0.07): 0.1,
    (8192, 0.02): 29.8, (8192, 0.03): 44.8, (8192, 0.04): 43.1, (8192, 0.05): 0.1,
}  # fmt: skip
ALEXNET_BN = {
    (512, 0.02): 60.2,
    (4096, 0.16): 58.1, (4096, 0.18): 58.9, (4096, 0.21): 58.5, (4096, 0.30): 57.1,
    (8192, 0.23): 57.6, (8192, 0.30): 58.0, (8192, 0.32): 57.7, (8192, 0.41): 56.5,
}  # fmt: skip
NETWORKS = {"alexnet": (2, None, ALEXNET), "alexnet_bn": (5, 128, ALEXNET_BN)}


def label(model: str, batch_size: int, lr: float) -> str:
    return f"{model} {batch_size} lr {lr:g}"


ACCURACIES = {label(model, *cell): value for model, (_, _, cells) in NETWORKS.items() for cell, value in cells.items()}
PAPER = Accuracies(ACCURACIES, test_examples=50_000)
CLAIMS = PAPER.each("Table 1", 0.5, [name for name, value in ACCURACIES.items() if value > 0.1])


def runs() -> list[RunSpec]:
    return [
        RunSpec(
            label=label(model, batch_size, lr),
            policy=Policy(warmup_polynomial(lr, warmup, epochs=100, power=2), batch_size, momentum=0.9),
            dataset="imagenet",
            model=model,
            optimizer="sgd",
            weight_decay=5e-4,
            ghost_size=ghost_size,
            augmentation="resized_crop",
            image_size=224,
            normalization="imagenet",
            epochs=100,
            partial="keep",
            seed=seed,
        )
        for model, (warmup, ghost_size, cells) in NETWORKS.items()
        for batch_size, lr in cells
        for seed in range(6)
    ]


if __name__ == "__main__":
    from lrbs_core.cli import run_file

    run_file(__file__)
