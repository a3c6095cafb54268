"""Specs: the key is the run's identity, JSON keeps all of it, and nothing out of range gets in."""

import dataclasses
import hashlib
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrbs_core.policies import Policy
from lrbs_core.schedules import Linear, Piecewise, Schedule, Steps
from lrbs_core.specs import EXAMPLES, RunSpec

FIELDS = {
    "label": "decaying lr",
    "policy": Policy(Steps(0.1, at=(2, 3), factor=0.5), 100, 0.9),
    "dataset": "imagefolder:cats",
    "model": "convnet",
    "optimizer": "sgd",
    "weight_decay": 5e-4,
    "ghost_size": 50,
    "augmentation": "none",
    "normalization": "channel",
    "epochs": 5,
    "partial": "keep",
    "seed": 0,
    "evaluate_every_epochs": 1,
    "examples": 1000,
    "overrides": (),
    "trust_coefficient": None,
    "decay_batch_norm": True,
    "image_size": None,
    "validation": 0,
}
OTHER = {
    "label": "lr, decaying",
    "policy": FIELDS["policy"].grow_batch(),
    "dataset": "imagefolder:dogs",
    "model": "resnet50",
    "optimizer": "nesterov",
    "weight_decay": 0,
    "ghost_size": None,
    "augmentation": "flip_crop",
    "normalization": "mean_image",
    "epochs": 4.5,
    "partial": "carry",
    "seed": 1,
    "evaluate_every_epochs": 0.5,
    "examples": 1001,
    "overrides": (("scale", "0.1"),),
    "trust_coefficient": 0.01,
    "decay_batch_norm": False,
    "image_size": 64,
    "validation": 0.25,
}
# What a field needs beside it to be of use.
BESIDE = {
    "trust_coefficient": {"optimizer": "lars", "trust_coefficient": 0.001},
    "image_size": {"augmentation": "resized_crop", "normalization": "imagenet", "image_size": 96},
}
# What the key is a hash of, as written down when keys were first given: a change here loses every run made so far.
HASHED = (
    '{"augmentation": "none", "dataset": "imagefolder:cats", "epochs": 5.0, "examples": 1000, "ghost_size": 50, '
    '"model": "convnet", "normalization": "channel", "optimizer": "sgd", "partial": "keep", "policy": {"batch_size": '
    '100.0, "lr": {"at": [2.0, 3.0], "factor": 0.5, "schedule": "Steps", "value": 0.1}, "momentum": 0.9}, "seed": 0, '
    '"weight_decay": 0.0005}'
)


def spec(**changes):
    return RunSpec(**FIELDS | changes)


def test_the_key_is_that_of_the_first_version():
    assert spec().key == hashlib.sha256(HASHED.encode()).hexdigest()[:16] == "16d01318ad7b43f8"


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(RunSpec)])
def test_every_field_but_the_label_is_part_of_the_key(name):
    beside = BESIDE.get(name, {})
    one, other = spec(**beside), spec(**beside | {name: OTHER[name]})
    assert (one.key == other.key) == (name == "label")
    assert one != other


# By the hash of the fields alone, as `HASHED` is one: where a run comes to what it did in the first version.
@pytest.mark.parametrize(("changes", "kept"), [
    ({"optimizer": "adam"}, True),
    ({"optimizer": "adamw", "policy": Policy(0.1, 100, Piecewise((0.9, 0.9), at=(2,)))}, True),
    ({"optimizer": "adam", "policy": Policy(0.1, 100, Piecewise((0.9, 0.5), at=(6,)))}, True),  # after the last epoch
    ({"optimizer": "adam", "policy": Policy(0.1, 100, Piecewise((0.9, 0.5), at=(2,)))}, False),
    ({"optimizer": "adamw", "policy": Policy(0.1, 100, Linear(0.9, 0.5, 5))}, False),
    ({"policy": Policy(0.1, 100, Linear(0.9, 0.5, 5))}, True),
    ({"model": "resnet110"}, True),
    ({"model": "wrn_28_10"}, True),
    ({"model": "resnet110_stochastic"}, False),
    ({"model": "vgg16"}, False),
])  # fmt: skip
def test_a_key_is_another_only_where_the_same_fields_come_to_another_end_than_they_did(changes, kept):
    run = spec(**changes)
    fields = {name: value for name, value in run.to_dict().items() if name in json.loads(HASHED)}
    first = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]
    assert (run.key == first) == kept
    assert run.superseded_key == (None if kept else first)


@pytest.mark.parametrize(
    "fields",
    [
        FIELDS,
        OTHER | BESIDE["trust_coefficient"] | BESIDE["image_size"],
        {name: FIELDS[name] for name in list(FIELDS)[:-7]} | {"examples": 7e2},
    ],
)
def test_a_spec_survives_json(fields):
    one = RunSpec(**fields | {"examples": int(fields["examples"])})
    copy = RunSpec.from_dict(json.loads(json.dumps(one.to_dict(), allow_nan=False)))
    assert (copy, hash(copy), copy.key, copy.label) == (one, hash(one), one.key, one.label)


@given(lr=st.from_type(Schedule), epochs=st.floats(0.1, 8), weight_decay=st.floats(0, 1))
def test_a_spec_of_any_policy_keeps_its_key_in_json(lr, epochs, weight_decay):
    one = spec(policy=Policy(lr, 128, 0.9).grow_batch(max_batch_size=500), epochs=epochs, weight_decay=weight_decay)
    assert RunSpec.from_dict(json.loads(json.dumps(one.to_dict()))).key == one.key


def test_fields_added_since_may_be_absent_from_an_old_file():
    now = spec(dataset="digits", examples=1437)
    old = now.to_dict()
    for name in ("evaluate_every_epochs", "overrides", "examples"):
        del old[name]
    assert RunSpec.from_dict(old) == now


def test_whole_numbers_and_floats_are_the_same_run():
    fields = {"epochs": 5, "weight_decay": 0, "evaluate_every_epochs": 2}
    assert spec(**fields).key == spec(**{name: float(value) for name, value in fields.items()}).key


NAMED = [("digits", 1437), ("cifar10", 50_000), ("cifar100", 50_000), ("imagenet", 1_281_167)]


@pytest.mark.parametrize(("dataset", "examples"), NAMED)
def test_a_named_dataset_knows_its_examples(dataset, examples):
    fields = {name: value for name, value in FIELDS.items() if name != "examples"} | {"dataset": dataset}
    fields |= BESIDE["image_size"] if dataset == "imagenet" else {}
    assert RunSpec(**fields).examples == examples == EXAMPLES[dataset]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": ""}, "label must be printable text, but got ''"),
        ({"label": " a"}, "label must be printable text, but got ' a'"),
        ({"label": "a\nb"}, r"label must be printable text, but got 'a\nb'"),
        ({"label": 5}, "label must be printable text, but got 5"),
        ({"dataset": "mnist"}, "one of digits, cifar10, cifar100, imagenet or imagefolder:NAME, but got 'mnist'"),
        ({"dataset": "imagefolder:"}, "imagefolder:NAME, but got 'imagefolder:'"),
        ({"dataset": ["digits"]}, "dataset must be a name, but got ['digits']"),
        ({"model": ""}, "model must be a name, but got ''"),
        ({"examples": 0}, "examples must be a whole number >= 1, but got examples=0"),
        ({"examples": 1000.0}, "examples must be a whole number >= 1, but got examples=1000.0"),
        ({"examples": 10**14}, "times epochs must be at most 1e+09 of the smallest batch, but got examples=1000"),
        ({"epochs": 1e8 + 1e4}, "smallest batch, but got examples=1000, epochs=1.0001e+08, batch_size=100"),
        ({"seed": -1}, "seed must be a whole number >= 0, but got seed=-1"),
        ({"seed": True}, "seed must be a whole number >= 0, but got seed=True"),
        ({"optimizer": "lion"}, "one of sgd, nesterov, lars, adam, adamw, rmsprop, adagrad, adadelta, but got 'lion'"),
        ({"augmentation": "crop"}, "augmentation must be one of none, flip, flip_crop, resized_crop, but got 'crop'"),
        ({"normalization": "none"}, "normalization must be one of channel, mean_image, imagenet, but got 'none'"),
        ({"partial": "pad"}, "partial must be one of keep, drop, carry, but got 'pad'"),
        ({"partial": "drop", "epochs": 0.09}, "but got batch_size=100 in 0.09 epochs of 1000 examples"),
        ({"epochs": 0}, "epochs > 0 must hold, but got epochs=0.0"),
        ({"epochs": float("inf")}, "epochs > 0 must hold, but got epochs=inf"),
        ({"epochs": "5"}, "epochs > 0 must hold, but got epochs=5"),
        ({"evaluate_every_epochs": 0}, "evaluate_every_epochs > 0 must hold, but got evaluate_every_epochs=0.0"),
        ({"weight_decay": -1e-4}, "weight_decay >= 0 must hold, but got weight_decay=-0.0001"),
        ({"weight_decay": float("nan")}, "weight_decay >= 0 must hold, but got weight_decay=nan"),
        ({"weight_decay": float("inf")}, "weight_decay >= 0 must hold, but got weight_decay=inf"),
        ({"policy": Policy(0.1, Piecewise((1, 1001), at=(4,)), 0.9)}, "but got batch_size=1001: cap it"),
        (
            {"policy": Policy(0.1, Piecewise((100, 1001), at=(4,)), 0.9)},
            "1 <= batch_size <= 1000 (the training examples) must hold in every epoch, but got batch_size=1001: cap it",
        ),
        ({"policy": Policy(0.1, Linear(100, 0, 5), 0.9), "ghost_size": None}, "but got batch_size=0: cap it"),
        ({"policy": Policy(0.1, 1001, 0.9)}, "but got batch_size=1001: cap it"),
        ({"ghost_size": 1}, "ghost_size must be a whole number >= 2, but got ghost_size=1"),
        ({"ghost_size": 101}, "ghost_size <= batch_size must hold in every epoch, but got ghost_size=101"),
        ({"policy": Policy(0.1, Piecewise((100, 49), at=(4,)), 0.9)}, "got ghost_size=50, batch_size=49"),
        ({"optimizer": "lars"}, "trust_coefficient must be given for lars, but got trust_coefficient=None"),
        ({"trust_coefficient": 0.01}, "trust_coefficient must be None for sgd, but got trust_coefficient=0.01"),
        ({"optimizer": "lars", "trust_coefficient": 0}, "trust_coefficient > 0 must hold (0.001 in the paper), but"),
        ({"optimizer": "lars", "trust_coefficient": "1"}, "but got trust_coefficient='1'"),
        ({"decay_batch_norm": 1}, "decay_batch_norm must be True or False, but got 1"),
        ({"optimizer": "adagrad"}, "adagrad has no momentum, so that the policy's must be 0"),
        ({"optimizer": "adadelta", "policy": Policy(0.1, 100, Linear(0, 0.1, 5))}, "adadelta has no momentum"),
        ({"image_size": 64}, "image_size must be None without augmentation resized_crop, but got image_size=64"),
        ({"augmentation": "resized_crop"}, "image_size must be given for augmentation resized_crop, but got"),
        (BESIDE["image_size"] | {"image_size": 7}, "image_size must be a whole number >= 8, but got image_size=7"),
        (BESIDE["image_size"] | {"normalization": "channel"}, "needs normalization imagenet, but got channel"),
        (BESIDE["image_size"] | {"dataset": "cifar10"}, "resized_crop needs imagenet or an imagefolder:NAME, but got"),
        ({"dataset": "imagenet"}, "imagenet needs augmentation resized_crop, but got augmentation=none"),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_with_the_run_the_rule_and_the_value(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        spec(**changes)
    assert str(caught.value).startswith(f"run {changes.get('label', 'decaying lr')!r}: ")


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": Policy(0.1, 1000, 0.9)},
        {"policy": Policy(0.1, 1, 0.9), "ghost_size": None},
        {"ghost_size": 100},
        {"optimizer": "adagrad", "policy": Policy(0.1, 100, 0)},
        {"optimizer": "lars", "trust_coefficient": 1},
        {"ghost_size": 2},
        {"epochs": 1e8},  # a billion updates
        {"policy": Policy(0.1, Piecewise((100, 1001), at=(6,)), 0.9)},  # after the last epoch
    ],
)
def test_a_value_on_the_border_is_taken(changes):
    assert spec(**changes).key != spec().key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value | {"colour": "red"}, "the fields label, policy, .* validation, but got label, .*, colour"),
        (lambda value: {k: v for k, v in value.items() if k != "seed"}, "a run must have the fields"),
        (lambda value: list(value), "a run must have the fields .*, but got .'label'"),
        (lambda value: value | {"overrides": [["scale", 0.1]]}, "overrides must be pairs of text, but got .*0.1"),
        (lambda value: value | {"overrides": [["scale"]]}, "overrides must be pairs of text"),
        (lambda value: value | {"overrides": ["ab"]}, "overrides must be pairs of text"),
        (lambda value: value | {"overrides": "ab"}, "overrides must be pairs of text, but got 'ab'"),
        (lambda value: value | {"policy": 0.1}, "a policy must have the fields lr, batch_size, momentum, but got 0.1"),
        (lambda value: value | {"dataset": ["cifar10"]}, "dataset must be a name"),
        (lambda value: value | {"epochs": None}, "epochs > 0 must hold, but got epochs=None"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_spec_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        RunSpec.from_dict(change(spec().to_dict()))


def test_a_shortened_run_has_its_breakpoints_moved():
    short = spec().shortened(0.1)
    assert (short.epochs, short.policy.edges(5)) == (0.5, (0.2, 0.3))
    assert short == spec(epochs=0.5, policy=Policy(Steps(0.1, at=(0.2, 0.3), factor=0.5), 100, 0.9))
    assert spec().shortened(1) == spec()


@pytest.mark.parametrize("factor", [0, -1, float("inf"), float("nan")])
def test_a_run_is_not_shortened_by_what_is_no_factor(factor):
    with pytest.raises(ValueError, match=f"scale > 0 must hold, but got scale={factor}"):
        spec().shortened(factor)


def test_the_plan_and_the_walk_are_those_of_the_fields():
    assert [update.size for update in spec(epochs=0.25).walk()] == [100, 100, 50]
    assert spec(epochs=0.25, partial="drop").plan().updates == 2
    assert [phase.updates for phase in spec().plan().phases] == [20, 10, 20]
