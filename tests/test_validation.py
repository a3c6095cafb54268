"""Validation data: what is set aside, that training never sees it, that N is without it, and that choices are by it."""

import re
from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made import EAGER, MACHINE, checkpoint_bits, finish, made_data, made_row, made_spec, noise_spec, start, unclocked
from PIL import Image
from torch.nn import functional

from lrbs_core import Choice, Linear, Piecewise, Policy, models, training
from lrbs_core.data import Stream, shuffled, to_device
from lrbs_core.decoding import Arrays
from lrbs_core.discovery import Design as DiscoveryDesign
from lrbs_core.discovery import Discovery
from lrbs_core.range_test import bounds_of, until_lost
from lrbs_core.search import Design, Search
from lrbs_core.spaces import Candidates
from lrbs_core.streaming import FolderStream, scan
from lrbs_core.sweeping import run_serially
from lrbs_core.training import prepare
from lrbs_core.validation import JUDGED, judged_on, shares, split

CPU = torch.device("cpu")
DATA = made_data()
SIZES = st.lists(st.integers(2, 60), min_size=2, max_size=8)


@given(SIZES, st.floats(0.05, 0.95), st.integers(0, 2**40), st.randoms(use_true_random=False))
def test_a_split_is_exact_disjoint_and_off_each_classs_share_by_less_than_one(sizes, part, seed, random):
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    random.shuffle(labels)
    count = round(part * len(labels))
    try:
        kept, aside = split(labels, count, seed)
    except ValueError:  # only where the exact shares leave a class without a whole example on one side
        assert any(not 1 < count * size / len(labels) < size - 1 for size in sizes) or count in (0, len(labels))
        return
    if count == 0:
        assert (kept.tolist(), aside.tolist()) == (list(range(len(labels))), [])
        return
    assert len(aside) == count
    assert sorted([*kept, *aside]) == list(range(len(labels)))
    assert kept.tolist() == sorted(kept)
    found = Counter(labels[example] for example in aside)
    assert all(abs(found[label] - count * size / len(labels)) < 1 for label, size in enumerate(sizes))
    assert all(0 < found[label] < size for label, size in enumerate(sizes))
    assert [part.tolist() for part in split(np.array(labels), count, seed)] == [kept.tolist(), aside.tolist()]


def test_the_split_of_a_seed_is_that_of_the_first_version():
    # A run that is resumed with another numpy must not train on what it is judged by.
    assert split([0, 1] * 10, 4, seed=3)[1].tolist() == [4, 13, 14, 19]


def test_every_example_of_a_class_is_set_aside_as_often_as_any_other():
    labels, seeds = np.repeat([0, 1, 2], [40, 20, 20]), 2000
    counts = np.bincount(np.concatenate([split(labels, 20, seed)[1] for seed in range(seeds)]), minlength=80)
    # A quarter each, binomially: 5 standard deviations off in none of 80.
    assert np.abs(counts - seeds / 4).max() < 5 * np.sqrt(seeds * 3 / 16)
    assert np.std(counts) > 0.7 * np.sqrt(seeds * 3 / 16)  # by chance, not in turn


def test_what_is_set_aside_does_not_follow_the_order_of_an_epoch():
    first = [
        len(set(split([0, 1] * 100, 50, seed)[1].tolist()) & set(shuffled(200, seed, epoch)[0][:50].tolist()))
        for seed in range(100)
        for epoch in (0, 1)
    ]
    # 50 of 200 are 12.5 of any 50; its standard deviation is 2.7, of the mean of 200 of them 0.19.
    assert np.mean(first) == pytest.approx(12.5, abs=0.8)


@pytest.mark.parametrize(
    ("sizes", "count", "says"),
    [
        ([50, 50, 2], 10, "but 10 in all are 0 of the 2 of class number 2: set more aside"),
        ([50, 50, 2], 90, "but 90 in all are 2 of the 2 of class number 2: set fewer aside"),
        ([9, 9], 1, "but 1 in all are 0 of the 9 of class number 1: set more aside"),
    ],
)
def test_a_class_without_an_example_on_either_side_is_refused(sizes, count, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        shares(sizes, count)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"validation": 1.0}, "validation must be 0, a share between 0 and 1, or a whole number of training examples"),
        ({"validation": -0.1}, "but got validation=-0.1"),
        ({"validation": -1}, "but got validation=-1"),
        ({"validation": True}, "but got validation=True"),
        ({"validation": float("nan")}, "but got validation=nan"),
        ({"validation": "0.1"}, "but got validation='0.1'"),
        ({"validation": None}, "but got validation=None"),
        ({"validation": 0.001}, "1 or more of the 100 training examples, and leave one, but got validation=0.001"),
        ({"validation": 100}, "and leave one, but got validation=100, which is 100"),
        ({"validation": 0.7}, "1 <= batch_size <= 30 (the training examples but 70 set aside) must hold in"),
    ],
)  # fmt: skip
def test_a_validation_that_cannot_be_is_refused_in_the_spec(changes, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        noise_spec(**changes)


@pytest.mark.parametrize(("validation", "aside"), [(0, 0), (0.0, 0), (0.1, 144), (144, 144), (0.25, 359)])
def test_n_is_what_is_trained_on_in_walk_plan_and_bounds(validation, aside):
    spec = replace(made_spec(epochs=2), validation=validation, partial="carry")
    assert (spec.examples, spec.validation_examples, spec.train_examples) == (1437, aside, 1437 - aside)
    updates = list(spec.walk())
    assert sum(update.size for update in updates) == spec.plan().examples == 2 * (1437 - aside)
    assert updates[1].epoch == 16 / (1437 - aside)
    g = spec.plan().phases[0].noise_scale
    assert g == pytest.approx(0.1 * ((1437 - aside) / 16 - 1) / 0.1)
    assert spec.judged_by == ("validation_accuracy" if aside else "test_accuracy")
    assert (replace(spec, partial="keep").key == made_spec(epochs=2).key) == (aside == 0)


# Pixels of example i are all i + 1, and so tell which it is; test images are 0.
def numbered(n=60, classes=3):
    pixels = np.broadcast_to(np.arange(1, n + 1, dtype=np.uint8)[:, None, None, None], (n, 8, 8, 1))
    labels = np.arange(n) % classes
    return Arrays(np.ascontiguousarray(pixels), labels, np.zeros((4, 8, 8, 1), np.uint8), labels[:4], ("a", "b", "c"))


def seen_in(batches):
    """Of batches of one-coloured images, which examples they are, and the labels."""
    images, labels = map(torch.cat, zip(*batches, strict=True))
    assert torch.equal(images.amin((1, 2, 3)), images.amax((1, 2, 3)))
    return (images[:, 0, 0, 0] - 1).long().tolist(), labels.tolist()


missing = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch finds none")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, missing])])
@pytest.mark.parametrize("augmentation", ["none", "flip", "flip_crop"])
def test_no_epoch_in_memory_has_an_example_that_is_set_aside(augmentation, device):
    arrays = numbered()
    kept, aside = split(arrays.train_labels, 12, seed=5)
    stream = Stream(to_device(arrays, torch.device(device)), 5, augmentation, "channel", validation=12)
    chosen = arrays.train_pixels[kept].astype(float)
    assert float(stream.shift) == pytest.approx(chosen.mean())
    assert 1 / float(stream.gain) == pytest.approx(chosen.std())
    stream.shift, stream.gain = torch.zeros(1, device=device), torch.ones(1, device=device)
    orders = []
    for epoch in range(5):
        examples, labels = seen_in([stream.batch(48 * epoch, 30), stream.batch(48 * epoch + 30, 18)])
        assert sorted(examples) == kept.tolist()
        assert labels == [example % 3 for example in examples]
        orders.append(tuple(examples))
    assert len(set(orders)) == 5
    for size in (5, 12, 100):
        assert seen_in(stream.validation_batches(size)) == (aside.tolist(), [example % 3 for example in aside])
    assert [len(labels) for _, labels in stream.validation_batches(5)] == [5, 5, 2]


def test_validation_images_are_not_augmented_and_all_policies_of_a_seed_have_the_same():
    arrays = made_data()
    streams = [Stream(arrays, 2, augmentation, "channel", 20) for augmentation in ("flip_crop", "none")]
    (first, labels), (other, same) = (next(stream.validation_batches(99)) for stream in streams)
    assert torch.equal(first, other)
    assert torch.equal(labels, same)
    assert torch.equal(labels, arrays.train_labels[split(arrays.train_labels, 20, 2)[1]])
    assert not np.array_equal(split(arrays.train_labels, 20, 2)[1], split(arrays.train_labels, 20, 3)[1])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_no_epoch_of_a_folder_has_an_example_that_is_set_aside(tmp_path, workers):
    for i in range(30):
        path = tmp_path / "made/train" / "abc"[i // 10] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (i + 1, 0, 0)).save(path)
        test = tmp_path / "made/test" / "abc"[i // 10] / "0.png"
        test.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20)).save(test)
    folder = scan("imagefolder:made", tmp_path, 16)
    kept, aside = split(folder.train_labels.numpy(), 6, seed=4)
    stream = FolderStream(folder, 4, CPU, workers, validation=6)
    stream.shift, stream.gain = torch.zeros(3), torch.ones(3)

    def red(batches):
        images, labels = map(torch.cat, zip(*batches, strict=True))
        return (images[:, 0, 0, 0] - 1).long().tolist(), labels.tolist()

    examples, labels = red(stream.batches([(0, 20), (20, 20), (40, 20), (60, 12)]))  # 3 epochs of 24
    for epoch in range(3):
        assert sorted(examples[24 * epoch : 24 * epoch + 24]) == kept.tolist()
    assert labels == [example // 10 for example in examples]
    assert red(stream.validation_batches(4)) == (aside.tolist(), [example // 10 for example in aside])
    scan.cache_clear()


def validated(**changes):
    """Batch norm, augmentation, momentum and a growing batch, with 28 of 100 examples set aside."""
    fields = {"model": "convnet", "ghost_size": 8, "evaluate_every_epochs": 0.5, "validation": 0.28}
    return noise_spec(Linear(0.05, 0.01, 2), Piecewise((16, 40), at=(1,)), **fields | changes)


@pytest.mark.parametrize("normalization", ["channel", "mean_image"])
def test_what_is_set_aside_has_no_say_in_the_weights_not_even_by_its_pixels_mean(tmp_path, normalization):
    spec = validated(normalization=normalization)
    aside = split(DATA.train_labels, 28, spec.seed)[1]
    pixels = DATA.train_pixels.numpy().copy()
    pixels[aside] = 255 - pixels[aside] // 3
    labels, tests = DATA.train_labels.numpy(), (DATA.test_pixels.numpy(), DATA.test_labels.numpy())
    other = to_device(Arrays(pixels, labels, *tests, tuple("abcd")), CPU)
    ends = []
    for number, data in enumerate((DATA, other)):
        rows, _ = finish(start(spec, tmp_path / f"{number}.pt", data=data))
        ends.append((rows, torch.load(tmp_path / f"{number}.pt", weights_only=True)["model"]))
    (rows, weights), (others, same) = ends
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert [row["test_loss"] for row in rows] == [row["test_loss"] for row in others]
    assert [row["validation_loss"] for row in rows] != [row["validation_loss"] for row in others]


def test_rows_tell_the_validation_loss_and_accuracy_and_go_by_what_is_trained_on(tmp_path):
    spec = validated()
    rows, _ = finish(start(spec, tmp_path / "checkpoint.pt"))
    updates = list(spec.walk())
    # 72 examples: 16 a batch in the first epoch, the last one 8, then 40 and 32.
    assert [update.size for update in updates] == [16, 16, 16, 16, 8, 40, 32]
    assert [row["epoch"] for row in rows] == [48 / 72, 1.0, 1 + 40 / 72, 2.0]
    for row in rows:
        lr, batch_size, momentum = (row[name] for name in ("lr", "batch_size", "momentum"))
        assert row["noise_scale"] == pytest.approx(lr * (72 / batch_size - 1) / (1 - momentum))
    kept, aside = split(DATA.train_labels, 28, spec.seed)
    model = models.build("convnet", 4, 1, 8, 8)
    model.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["model"])
    trained = DATA.train_pixels[kept].double()
    pixels = (DATA.train_pixels[aside].double() - trained.mean()) / trained.std(correction=0)
    logits, labels = model.eval()(pixels.permute(0, 3, 1, 2).float()).detach(), DATA.train_labels[aside]
    assert rows[-1]["validation_loss"] == pytest.approx(float(functional.cross_entropy(logits, labels)), rel=1e-4)
    accuracy = 100 * float((logits.argmax(1) == labels).double().mean())
    assert rows[-1]["validation_accuracy"] == pytest.approx(accuracy)


@pytest.mark.parametrize("rows_before", [0, 1, 3])
def test_a_run_with_validation_that_was_stopped_goes_on_to_the_same_bits(tmp_path, rows_before):
    unbroken, _ = finish(start(validated(), tmp_path / "unbroken.pt"))
    before = start(validated(), tmp_path / "it.pt", machine=EAGER)
    seen = list(islice(before, rows_before))
    before.close()
    torch.manual_seed(99)
    again, status = finish(start(validated(), tmp_path / "it.pt", seen, EAGER))
    assert (unclocked(again), status) == (unclocked(unbroken), "finished")
    assert checkpoint_bits(tmp_path / "it.pt") == checkpoint_bits(tmp_path / "unbroken.pt")


def test_too_few_examples_of_a_class_are_known_before_the_first_run(monkeypatch):
    labels = torch.tensor([0] * 98 + [1] * 2)
    monkeypatch.setattr(training, "load", lambda *_: DATA._replace(train_labels=labels))
    prepare([noise_spec(validation=30)], MACHINE)
    with pytest.raises(ValueError, match="run 'made': validation must set aside and leave an example of every class"):
        prepare([noise_spec(), noise_spec(validation=20)], MACHINE)


# Accuracies on validation and test data by lr: the two disagree on which is best.
ACCURACIES = {0.1: (60.0, 90.0), 0.2: (80.0, 70.0), 0.3: (70.0, 80.0)}


def told(spec, checkpoint=None, journalled=()):
    judged, test = ACCURACIES[spec.policy(0).lr]
    yield made_row(1, test) | ({"validation_accuracy": judged, "validation_loss": 1.0} if spec.validation else {})
    return "finished"


def of_lrs(validation):
    def candidate(seed, *, lr):
        return replace(made_spec(seed=seed), policy=Policy(lr, 16, 0.9), validation=validation)

    return Candidates("made", {"lr": Choice(*ACCURACIES)}, candidate)


@pytest.mark.parametrize(
    ("validation", "objective", "best", "on"),
    [
        (0.1, "validation_accuracy", 0.2, "validation"),
        (0.1, "test_accuracy", 0.1, "test"),
        (0, "test_accuracy", 0.1, "test"),
    ],
)
def test_a_search_ranks_by_what_it_says_it_does_and_shows_both(tmp_path, validation, objective, best, on):
    search = Search(Design(of_lrs(validation), "grid", 0, 3, 1, (objective,), early_stop=False), tmp_path)
    with search:
        while folder := search.next():
            run_serially([folder], told)
    document = search.document()
    assert document["best"][0]["label"] == f"lr={best}"
    assert (document["judged_on"], document["validation"]) == (on, validation)
    found = document["trials"][document["best"][0]["trial"]]
    assert found["test_accuracy"]["mean"] == ACCURACIES[best][1]
    if objective == "validation_accuracy":
        assert found["validation_accuracy"]["mean"] == ACCURACIES[best][0]


def test_the_best_by_test_data_is_flattered_and_the_best_by_validation_data_is_not(tmp_path, monkeypatch):
    """Five candidates as good as each other, 80 %, with 400 examples of either kind: deviations of 2 %."""
    monkeypatch.setattr("lrbs_core.search.importances", lambda *_: {})  # slow, and not looked at
    draws, best = np.random.default_rng(0), {"test_accuracy": [], "validation_accuracy": []}
    for repeat in range(24):
        measured = {lr / 10: draws.binomial(400, 0.8, 2) / 4 for lr in range(1, 6)}

        def train(spec, *_, measured=measured):
            test, judged = measured[spec.policy(0).lr]
            yield made_row(1, test) | {"validation_accuracy": judged, "validation_loss": 1.0}
            return "finished"

        for objective, seen in best.items():
            space = {"lr": Choice(*measured)}
            design = Design(replace(of_lrs(0.1), space=space), "grid", 0, 5, 1, (objective,), early_stop=False)
            search = Search(design, tmp_path / f"{repeat}")  # the second one trains nothing anew
            with search:
                while folder := search.next():
                    run_serially([folder], train)
            document = search.document()
            seen.append(document["trials"][document["best"][0]["trial"]]["test_accuracy"]["mean"])
    # The largest of five normal values lies 1.163 deviations up in the mean, and varies by 0.67 of one.
    assert np.mean(best["test_accuracy"]) == pytest.approx(80 + 1.163 * 2, abs=4 * 0.67 * 2 / np.sqrt(24))
    assert np.mean(best["validation_accuracy"]) == pytest.approx(80, abs=4 * 2 / np.sqrt(24))


def test_a_search_for_validation_data_that_no_run_sets_aside_is_refused():
    with pytest.raises(ValueError, match="--objective validation_loss needs validation data, but got none: give --val"):
        Design(of_lrs(0), "grid", 0, 3, 1, ("validation_loss",), early_stop=False)


@pytest.mark.parametrize("validation", [0, 0.1])
def test_a_discovery_ranks_by_validation_data_where_there_are_any(tmp_path, validation):
    def train(spec, checkpoint, journalled):
        lr = spec.policy(0).lr
        yield made_row(1, 50 + lr) | ({"validation_accuracy": 50 - lr, "validation_loss": 1.0} if validation else {})
        return "finished"

    source = replace(made_spec(epochs=2.0), validation=validation)
    found = Discovery(DiscoveryDesign("made", source, 4, 1.0, 0), tmp_path, lambda *_: None)
    for left in found.rounds():
        run_serially(left, train)
    document = found.document()
    first = sorted(trial["lr"] for trial in document["trials"] if trial["generation"] == 1)
    best = found.best.member.settings[0][0]
    assert best == (first[0] if validation else first[-1])
    judged = "validation_accuracy" if validation else "test_accuracy"
    assert document["objectives"] == {judged: "high"}
    assert document["judged_on"] == judged.partition("_")[0]
    assert all({judged, "test_accuracy"} <= trial.keys() for trial in document["trials"])
    assert document["rungs"] == [source.train_examples, 2 * source.train_examples]


def test_a_range_tests_bounds_and_its_early_end_are_by_the_accuracy_it_is_judged_by(tmp_path):
    test, judged = (
        [10.0] * 5 + [12.0 + 2 * n for n in range(33)],
        [10.0] * 20 + [40.0, 60, 80, 80, 80, 80, 80] + [10.0] * 11,
    )
    rows = [
        made_row(n, accuracy) | {"lr": n / 100, "train_loss": 1.0, "test_loss": 1.0, "validation_accuracy": other}
        for n, (accuracy, other) in enumerate(zip(test, judged, strict=True), start=1)
    ]
    assert bounds_of(rows, "test_accuracy").low < 0.1 < 0.15 < bounds_of(rows, "validation_accuracy").low
    assert not bounds_of(rows, "test_accuracy").high_found

    def ramp(*_):
        yield from rows
        return "finished"

    by_test, by_validation = (
        len(list(until_lost(ramp, metric)(None, None, ()))) for metric in ("test_accuracy", "validation_accuracy")
    )
    assert by_test == len(rows) > by_validation


def test_on_what_data_a_choice_rests_is_said_by_the_metrics_it_is_by():
    assert judged_on(["updates", "train_loss"]) == "training"
    assert judged_on(["validation_loss", "updates"]) == "validation"
    assert judged_on(["test_loss", "validation_accuracy"]) == "test"
    assert set(JUDGED) == {"training", "validation", "test"}
