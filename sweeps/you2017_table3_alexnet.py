"""Table 3 of You et al. 2017: AlexNet on ImageNet at batches of 512 to 32768 with LARS, with and without batch norm.

    lrbs run sweeps/you2017_table3_alexnet.py --data-dir DIR --gpus-per-run 1 --bf16 --workers 16

LARS with trust coefficient 0.001, momentum 0.9, weight decay 5e-4; warm-up over 2 epochs (5 with batch norm), then
polynomial decay of power 2, 100 epochs in all. Expected: the accuracy of B 512 holds to 8192 (58.7 and 58.2 %; with
batch norm 60.2 and 60.1 %), and falls beyond; without LARS, at the best lr of Table 1, it falls before (44.8 and 58.0
% at 8192). Taken, as not stated: warm-up from 0 to the stated lr, the polynomial counted from epoch 0, as in the
authors' code (see `warmup_polynomial`); batch norm over 128 images.

Count convention: none is stated; partial batches are kept, so that every image is seen.
Cost: 14 policies x 5 seeds of 100 epochs of 1281167 images of 224 x 224, in DIR/imagenet/{train,val}/CLASS/IMAGE: a
cluster.
"""

from lrbs_core import Accuracies, Policy, RunSpec, warmup_polynomial

SOURCE = "You, Gitman and Ginsburg 2017 (arXiv 1708.03888), Table 3"
# Batch size: lr, test accuracy.
ALEXNET = {512: (2, 58.7), 4096: (10, 58.5), 8192: (10, 58.2), 16_384: (14, 55.0), 32_768: (14, 46.9)}
ALEXNET_BN = {512: (2, 60.2), 4096: (10, 60.4), 8192: (14, 60.1), 16_384: (23, 59.3), 32_768: (22, 57.8)}
# Without LARS, the best lr of Table 1.
PLAIN = {"alexnet": {4096: (0.05, 53.1), 8192: (0.03, 44.8)}, "alexnet_bn": {4096: (0.18, 58.9), 8192: (0.30, 58.0)}}
# Network: warm-up epochs, ghost size.
NETWORKS: dict[str, tuple[float, int | None]] = {"alexnet": (2, None), "alexnet_bn": (5, 128)}
# Network, optimizer, batch size: label, lr, accuracy.
CELLS = {
    (model, optimizer, size): (f"{model} {size}" + ("" if optimizer == "lars" else " without LARS"), *cell)
    for optimizer, table in (("lars", {"alexnet": ALEXNET, "alexnet_bn": ALEXNET_BN}), ("sgd", PLAIN))
    for model, cells in table.items()
    for size, cell in cells.items()
}
PAPER = Accuracies({label: value for label, _, value in CELLS.values()}, test_examples=50_000)
CLAIMS = (
    *PAPER.each("Table 3; without LARS Table 1", tolerance=0.5),
    *(
        PAPER.below("LARS gains at a large batch", f"{model} {size} without LARS", f"{model} {size}")
        for model, cells in PLAIN.items()
        for size in cells
    ),
)


def runs() -> list[RunSpec]:
    return [
        RunSpec(
            label=label,
            policy=Policy(warmup_polynomial(lr, NETWORKS[model][0], epochs=100, power=2), batch_size, momentum=0.9),
            dataset="imagenet",
            model=model,
            optimizer=optimizer,
            trust_coefficient=0.001 if optimizer == "lars" else None,
            weight_decay=5e-4,
            ghost_size=NETWORKS[model][1],
            augmentation="resized_crop",
            image_size=224,
            normalization="imagenet",
            epochs=100,
            partial="keep",
            seed=seed,
        )
        for (model, optimizer, batch_size), (label, lr, _) in CELLS.items()
        for seed in range(5)
    ]


if __name__ == "__main__":
    from lrbs_core.cli import run_file

    run_file(__file__)
