"""Sweeps: what an override changes, and where a run stands after anything that can end it."""

import dataclasses
import re

import pytest
from made import made_row, made_spec

from lrbs_core.claims import Claim
from lrbs_core.journal import Journal, Reader, RunFolder
from lrbs_core.policies import Policy
from lrbs_core.schedules import Steps
from lrbs_core.specs import RunSpec
from lrbs_core.sweeping import Sweep, count_images, measured_speed, override, pending, run, run_serially

POLICY = Policy(Steps(0.1, at=(2, 3), factor=0.5), 100, 0.9)


def spec(label="decaying", seed=0, policy=POLICY, **changes):
    return dataclasses.replace(made_spec(label, seed, epochs=4), policy=policy, **changes)


POLICIES = {"decaying": POLICY, "growing": POLICY.grow_batch()}
SWEEP = Sweep("smith", "a paper", (), tuple(spec(name, n, POLICIES[name]) for n in (7, 3, 5) for name in POLICIES))


@pytest.mark.parametrize(
    ("claims", "runs", "message"),
    [
        ((), (), "sweep s: runs.. must give at least one run"),
        ((), (spec("a"), spec("b")), "runs must differ, but 'a' and 'b' with seed=0 are the same run"),
        ((), (spec("a"), spec("a", seed=1, epochs=5)), "runs of one label must differ in seed only, but 'a' does not"),
        ((Claim("1", "b", "updates", 1),), (spec("a"),), "a claim must be on one of .'a'., but got 'b'"),
        ((Claim("1", "a", "updates", 1, versus="b"),), (spec("a"),), "a claim must be on one of .'a'., but got 'b'"),
    ],
)
def test_a_sweep_that_contradicts_itself_is_refused(claims, runs, message):
    with pytest.raises(ValueError, match=message):
        Sweep("s", "a paper", claims, runs)


def test_an_override_changes_the_run_its_key_and_says_so(tmp_path):
    images = "a/1.png", "a/2.PNG", *(f"b/{n}.jpg" for n in range(400))
    for name in (*images, "a/.DS_Store", "LICENSE.png", "a/more/1.png"):  # the last three are no images of a class
        (tmp_path / "cats" / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cats" / "train" / name).touch()
    short = override(SWEEP, scale=0.1, model="convnet", dataset="imagefolder:cats", data_dir=tmp_path)
    for before, after in zip(SWEEP.runs, short.runs, strict=True):
        assert after.overrides == (("scale", "0.1"), ("model", "convnet"), ("dataset", "imagefolder:cats"))
        assert (after.epochs, after.policy.edges(4)) == (0.4, (0.2, 0.3))
        assert (after.model, after.dataset, after.examples) == ("convnet", "imagefolder:cats", 402)
        assert (after.label, after.seed) == (before.label, before.seed)
        assert RunSpec.from_dict(after.to_dict()) == after
    assert (short.name, short.source) == (SWEEP.name, SWEEP.source)
    back = override(short, dataset="cifar10")
    assert {(one.dataset, one.examples, len(one.overrides)) for one in back.runs} == {("cifar10", 50_000, 4)}


def test_validation_is_what_is_given_else_the_runs_own_else_what_is_unless_set():
    own = dataclasses.replace(SWEEP, runs=tuple(dataclasses.replace(one, validation=500) for one in SWEEP.runs))
    for sweep, change, aside, noted in (
        (SWEEP, {}, 0, ()),
        (SWEEP, {"unless_set": 0.1}, 0.1, (("validation", "0.1"),)),
        (SWEEP, {"validation": 300, "unless_set": 0.1}, 300, (("validation", "300"),)),
        (SWEEP, {"validation": 0, "unless_set": 0.1}, 0, ()),
        (own, {"unless_set": 0.1}, 500, ()),
        (own, {"validation": 500}, 500, ()),
        (own, {"validation": 0, "unless_set": 0.1}, 0, (("validation", "0"),)),
    ):
        changed = override(sweep, **change)
        assert {(type(one.validation), one.validation, one.overrides) for one in changed.runs} == {
            (type(aside), aside, noted)
        }
        assert ({one.key for one in changed.runs} == {one.key for one in sweep.runs}) == (not noted)
    (first, *_) = override(SWEEP, validation=300, scale=0.5).runs
    assert first.overrides == (("scale", "0.5"), ("validation", "300"))
    assert first.train_examples == first.examples - 300


@pytest.mark.parametrize(
    "change", [{"scale": 1}, {"scale": 0.5}, {"model": "mlp"}, {"dataset": "digits"}, {"validation": 0.1}]
)
def test_no_overridden_run_passes_for_the_sweep_s_own(change):
    assert not {one.key for one in override(SWEEP, **change).runs} & {one.key for one in SWEEP.runs}


def test_the_first_seeds_are_the_sweep_s_own_runs():
    for seeds, kept in ((1, {3}), (2, {3, 5})):
        assert override(SWEEP, seeds=seeds).runs == tuple(one for one in SWEEP.runs if one.seed in kept)
    assert override(SWEEP, seeds=9) == override(SWEEP) == SWEEP


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "resnet20"}, "'small' and 'large' with seed=0 are the same run"),
        ({"seeds": 0}, "seeds >= 1 must hold, but got seeds=0"),
        ({"scale": 0}, "scale > 0 must hold, but got scale=0"),
        ({"dataset": "mnist"}, "dataset must be one of .* but got 'mnist'"),
        ({"dataset": "imagefolder:none"}, "an image folder must hold CLASS/IMAGE files, but got .*none/train: no such"),
    ],
)
def test_an_override_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        override(Sweep("nets", "a paper", (), (spec("small"), spec("large", model="convnet"))), **change)


def test_a_folder_without_images_in_classes_is_refused(tmp_path):
    (tmp_path / "1.png").touch()
    with pytest.raises(ValueError, match=f"CLASS/IMAGE files, but got {re.escape(str(tmp_path))}$"):
        count_images(tmp_path)


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path, "smith", spec())


def read(folder):
    return Reader(folder.journal_path).poll()


def make_train(status="finished", error_after=None):
    """A train function that goes on after the rows so far, and the (spec, checkpoint, rows so far) of its calls."""

    def train(spec, checkpoint, rows):
        calls.append((spec, checkpoint, [one["row"] for one in rows]))
        for number in range(len(rows) + 1, 4):
            yield made_row(number)
            if number == error_after:
                raise RuntimeError("out of memory")
        return status

    calls = []
    return train, calls


def test_each_row_is_in_the_journal_before_it_is_yielded_and_so_is_the_end(folder):
    train, calls = make_train()
    for number, row in enumerate(run(folder, train, machine="1 x H200"), 1):
        assert (row, len(read(folder).rows), read(folder).rows[-1]) == (made_row(number), number, row)
        assert read(folder).status == "running"
    assert (len(read(folder).rows), read(folder).status, read(folder).machine) == (3, "finished", "1 x H200")
    assert calls == [(spec(), folder.checkpoint_path, [])]


@pytest.mark.parametrize("status", ["finished", "diverged", "stopped"])
def test_a_run_that_came_to_its_end_is_not_run_again(folder, status):
    assert pending([folder]) == [folder]
    train, calls = make_train(status=status)
    assert len(list(run(folder, train))) == 3
    assert pending([folder]) == []
    before = folder.journal_path.read_bytes()
    assert list(run(folder, train)) == []
    assert (len(calls), folder.journal_path.read_bytes()) == (1, before)


def test_a_failed_run_notes_why_and_can_be_run_again(folder):
    train, _ = make_train(error_after=2)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(run(folder, train))
    assert (read(folder).rows, read(folder).status) == ([made_row(1), made_row(2)], "failed")
    assert re.match(r"(?s)Traceback.*RuntimeError: out of memory", read(folder).note)
    assert pending([folder]) == [folder]
    train, calls = make_train()
    assert list(run(folder, train)) == [made_row(3)]
    assert (calls[0][2], len(read(folder).rows), pending([folder])) == ([1, 2], 3, [])


def test_a_train_that_fails_before_its_first_row_is_noted_too(folder):
    def train(spec, checkpoint, rows):
        raise OSError("no data")

    with pytest.raises(OSError, match="no data"):
        list(run(folder, train))
    assert read(folder).status == "failed"


def test_who_stops_iterating_leaves_a_run_that_can_go_on(folder):
    train, calls = make_train()
    rows = run(folder, train)
    next(rows)
    with pytest.raises(BlockingIOError, match="is being run by another process"):
        next(run(folder, train))
    rows.close()
    assert (read(folder).status, pending([folder])) == ("running", [folder])
    assert list(run(folder, train)) == [made_row(2), made_row(3)]
    assert [call[2] for call in calls] == [[], [1]]


def test_rows_made_again_since_the_last_checkpoint_are_journalled_once(folder):
    with Journal(folder.journal_path) as journal:
        journal.append(made_row(1) | {"made": 1})
    train, _ = make_train()
    list(run(folder, lambda spec, checkpoint, _: train(spec, checkpoint, ())))
    assert read(folder).rows == [made_row(1) | {"made": 1}, made_row(2), made_row(3)]


def test_run_serially_goes_past_a_run_that_fails_or_is_taken(tmp_path):
    folders = [RunFolder.create(tmp_path, "smith", one) for one in SWEEP.runs[:4]]

    def train(spec, checkpoint, rows):
        yield made_row(1)
        if spec == folders[0].spec:
            raise RuntimeError("out of memory")
        return "finished"

    with Journal(folders[1].journal_path):
        run_serially(folders, train, machine="1 x H200")
    assert pending(folders) == folders[:2]
    assert [read(one).status for one in folders] == ["failed", None, "finished", "finished"]
    assert read(folders[3]).machine == "1 x H200"


def test_the_measured_speed_of_a_net_is_the_median_over_its_rows(tmp_path, caplog):
    sweep = Sweep("nets", "a paper", (), (spec("a"), spec("b", model="convnet"), spec("a", seed=1)))
    for one, speeds in zip(sweep.runs, ([100, 900], [], [300]), strict=True):
        with Journal(RunFolder.create(tmp_path, "nets", one).journal_path) as journal:
            for number, speed in enumerate(speeds, 1):
                journal.append(made_row(number) | {"examples_per_second": speed})
    (tmp_path / "nets" / "later").mkdir()
    (tmp_path / "nets" / "later" / "spec.json").write_text("{}")
    assert measured_speed(tmp_path, sweep.name) == {"mlp": 300}
    assert "passed over: " in caplog.text
    assert "nets/later/spec.json: a run must have" in caplog.text
