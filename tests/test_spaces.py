"""Search spaces: what may be chosen, grids, and candidates checked before a search starts."""

import dataclasses
import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import made_spec

from lrbs_core import Choice, Policy, Range, sweeping
from lrbs_core.spaces import Candidates, grid, name_of

SWEEPS = sorted((Path(__file__).parents[1] / "sweeps").glob("*.py"))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Range(1, 1), "low < high must hold, but got low=1, high=1"),
        (lambda: Range(0, 1, log=True), "0 < low < high must hold, but got low=0, high=1"),
        (lambda: Range(0, math.inf), "high must be a finite number, but got high=inf"),
        (lambda: Range(-1e308, 1e308), "high - low must be a finite number, but got low=-1e+308, high=1e+308"),
        (lambda: Range(0, 10**309, whole=True), "high must be a finite number, but got high=1000000"),
        (lambda: Range("0", 1), "low must be a finite number, but got low='0'"),
        (lambda: Range(0.5, 2, whole=True), "low must be a whole number where whole=True, but got low=0.5"),
        (lambda: Choice(1), "two or more plain values that differ, but got (1,)"),
        (lambda: Choice(1, 1), "two or more plain values that differ, but got (1, 1)"),
        (lambda: Choice(1, [2]), "two or more plain values that differ, but got (1, [2])"),
    ],
)
def test_a_range_or_choice_that_is_none_is_refused(make, says):
    with pytest.raises(ValueError, match=r"^.*$") as error:
        make()
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("part", "value", "expected"),
    [
        (Range(0.001, 1, log=True), 0.0123456, 0.01235),
        (Range(0.001, 1, log=True), 0.98765432, 0.9877),
        (Range(2, 10), 4.23456789, 4.235),
        (Range(0.8, 0.99), 0.876543, 0.8765),
        (Range(8, 64, whole=True), 23.5, 24),
        (Range(0.33333, 0.66666, log=True), 0.33333, 0.33333),  # four digits of it would lie outside
    ],
)
def test_what_is_drawn_is_rounded_to_what_a_person_would_write(part, value, expected):
    assert part.rounded(value) == expected


RANGES = st.builds(
    lambda low, span, log: Range(low, low + span, log), st.floats(0.001, 10), st.floats(0.01, 100), st.booleans()
)


@given(RANGES, st.floats(0, 1), st.integers(2, 9))
def test_values_of_a_range_lie_in_it_evenly_with_both_ends(part, at, count):
    value = part.low + at * (part.high - part.low)
    assert part.low <= part.rounded(value) <= part.high
    values = part.values(count)
    assert (values[0], values[-1], len(values)) == (part.low, part.high, count)
    places = [math.log(value) if part.log else value for value in values]
    gaps = [after - before for before, after in itertools.pairwise(places)]
    assert gaps == pytest.approx([(places[-1] - places[0]) / (count - 1)] * (count - 1), rel=0.1)
    assert abs(value - part.nearest(value, count)) <= part.high - part.low


@given(
    st.dictionaries(
        st.sampled_from("abcd"), RANGES | st.just(Choice("x", "y", "z")) | st.just(Range(3, 4, whole=True)), min_size=1
    ),
    st.integers(1, 200),
)
def test_a_grid_is_the_whole_product_and_fits(space, most):
    least = math.prod(3 if isinstance(part, Choice) else 2 for part in space.values())
    if least > most:
        with pytest.raises(ValueError, match=f"at least {least} points"):
            grid(space, most)
        return
    points = grid(space, most)
    axes = [dict.fromkeys(point[name] for point in points) for name in space]
    assert points == [dict(zip(space, values, strict=True)) for values in itertools.product(*axes)]
    assert len(points) <= most
    for part, values in zip(space.values(), axes, strict=True):
        if isinstance(part, Choice):
            assert tuple(values) == part.values
        else:
            assert {part.low, part.high} <= set(values)
            finer = len(points) // len(values) * (len(values) + 1)
            assert finer > most or part.whole


def test_the_finest_grid_has_each_value_once_and_is_found_from_few_tries(monkeypatch):
    tries, values = [], Range.values
    monkeypatch.setattr(Range, "values", lambda part, count: tries.append(count) or values(part, count))
    (name,) = space = {"lr": Range(0.001, 1, log=True)}
    found = [point[name] for point in grid(space, 5000)]
    assert len(set(found)) == len(found) == 5000
    assert sum(tries) < 100 * 5000


def candidate(seed, *, lr, momentum):
    return dataclasses.replace(made_spec(seed=seed), policy=Policy(lr, 16, momentum))


SPACE = {"lr": Range(0.01, 1, log=True), "momentum": Choice(0.8, 0.9)}


def test_a_candidate_is_labelled_with_its_point_and_changed_as_asked():
    changed = sweeping.changed(0.5, None, None, Path())
    spec = Candidates("made", SPACE, candidate, changed).spec({"lr": 0.31, "momentum": 0.9}, seed=3)
    assert (spec.label, spec.seed, spec.epochs) == ("lr=0.31 momentum=0.9", 3, 1.5)
    assert spec.overrides == (("scale", "0.5"),)
    assert spec.policy(0) == (0.31, 16, 0.9)


def test_corners_and_points_inside_are_tried():
    tried = Candidates("made", SPACE, candidate).tried
    labels = [spec.label for spec in tried]
    assert labels[:4] == [name_of({"lr": lr, "momentum": m}) for lr in (0.01, 1.0) for m in (0.8, 0.9)]
    assert len(labels) == 12
    many = dict.fromkeys("abcd", Choice(1, 2, 3))

    def wide(seed, *, a, b, c, d):
        return candidate(seed, lr=a + 3 * b + 9 * c + 27 * d, momentum=0.9)

    assert len(Candidates("made", many, wide).tried) == 64 + 8


def not_a_run(seed, *, lr, momentum):
    return (seed, lr, momentum)


def broken(seed, *, lr, momentum):
    raise KeyError(seed, lr, momentum)


def deaf(seed, *, lr, momentum):
    return candidate(seed, lr=lr / lr, momentum=momentum)


@pytest.mark.parametrize(
    ("space", "function", "says"),
    [
        ({}, candidate, "SPACE must be a dictionary of ranges and choices by name, but got {}"),
        ({"lr": (0, 1), "momentum": 0.9}, candidate, "SPACE must hold Range(low, high) or Choice(value, ...), but got"),
        ({"lr": Range(0, 1)}, candidate, "candidate must take seed, then the names in SPACE (lr), but takes seed, lr,"),
        (
            SPACE,
            not_a_run,
            "candidate at lr=0.01 momentum=0.8: candidate must return a RunSpec, but got (0, 0.01,",
        ),
        (SPACE | {"lr": Range(-1, 1)}, candidate, "candidate at lr=-1.0 momentum=0.8: lr >= 0 must hold, but got"),
        (SPACE, broken, "candidate at lr=0.01 momentum=0.8: (0, 0.01, 0.8)"),
        (SPACE, deaf, "every name in SPACE must change the run, but lr does not"),
    ],
)
def test_a_space_that_makes_no_runs_is_refused_in_one_line(space, function, says):
    with pytest.raises(ValueError, match=r"^.*$") as error:
        _ = Candidates("made", space, function).tried
    assert says in str(error.value)


def test_a_candidate_that_takes_no_notice_of_its_seed_is_refused():
    def same(seed, *, lr, momentum):
        return candidate(seed * 0, lr=lr, momentum=momentum)

    with pytest.raises(ValueError, match="must have the seed that it is asked for, 1, but got seed=0"):
        Candidates("made", SPACE, same).spec({"lr": 0.1, "momentum": 0.9}, seed=1)


def test_another_space_or_another_candidate_is_another_search():
    def longer(seed, *, lr, momentum):
        return candidate(seed, lr=lr, momentum=momentum).shortened(2)

    keys = {
        Candidates("made", SPACE, candidate).key,
        Candidates("made", SPACE, longer).key,
        Candidates("made", SPACE | {"momentum": Choice(0.9, 0.8)}, candidate).key,
    }
    assert len(keys) == 3
    assert Candidates("made", dict(SPACE), candidate).key in keys


def test_a_file_without_a_space_says_what_is_missing(tmp_path):
    (tmp_path / "s.py").write_text("SPACE = {}\n")
    with pytest.raises(ValueError, match=r"s.py: ValueError: a sweep must define SPACE and candidate\(\), but"):
        sweeping.load_candidates(tmp_path / "s.py")


@pytest.mark.parametrize("path", [path for path in SWEEPS if "SPACE" in path.read_text()], ids=lambda path: path.stem)
def test_every_space_in_sweeps_makes_runs(path):
    assert sweeping.load_candidates(path).tried
