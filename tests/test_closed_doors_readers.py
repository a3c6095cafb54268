"""Every reader on whatever it may be given: what comes out is valid, or the input is refused in one line."""

import json
import math
import random
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from made import made_row, made_spec

from lrbs_core import Policy, store
from lrbs_core.journal import COUNTS, METRICS, Journal, Reader, RunFolder
from lrbs_core.schedules import DEPTH, KINDS, Schedule, schedule_from_dict
from lrbs_core.specs import RunSpec

SPEC = made_spec().to_dict()
words = st.sampled_from(["row", "status", "running", "time_ms", "note", "schedule", *METRICS, *KINDS]) | st.text(
    max_size=5
)
HUGE = [10**400, -(10**400), 2**63, 2**53, 1e308, -1e308, 5e-324, math.inf, -math.inf, math.nan]
numbers = st.integers(-3, 70) | st.floats(0, 3) | st.integers() | st.floats() | st.booleans() | st.sampled_from(HUGE)
anything = st.recursive(
    st.none() | numbers | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=5),
    max_leaves=12,
)


def line(value):
    return json.dumps(value).encode()


rows = st.builds(
    lambda number, changes: line({"row": made_row(number) | changes}),
    st.integers(-1, 4),
    st.dictionaries(words, numbers, max_size=2),
)
statuses = st.builds(
    lambda status, time_ms, note: line({"status": status, "time_ms": time_ms, "note": note}), words, numbers, anything
)
LARGE = [
    b"[" * 200_000, b'{"row":' * 50_000, b"\xff\xfe{", b"9" * 5_000, b'"' + b"x" * 10**6 + b'"', b'{"row": {"row": 1}}',
]  # fmt: skip
lines = rows | statuses | anything.map(line) | st.binary(max_size=40) | st.sampled_from(LARGE)


@given(st.lists(lines, max_size=10), st.integers(0, 2**32))
def test_whatever_a_journal_holds_its_rows_are_1_to_n(tmp_path_factory, content, seed):
    path, mixed = tmp_path_factory.mktemp("journal") / "journal.jsonl", random.Random(seed)
    told = b"\n".join([*content, *mixed.sample(content, len(content))])  # repeated, reordered
    path.write_bytes(told[: mixed.randint(len(told) // 2, len(told))])  # and torn
    before = Reader(path).poll().rows
    with Journal(path) as journal:
        journal.append(made_row(len(journal.rows) + 1))
        count = len(journal.rows)
    reader = Reader(path).poll()
    assert reader.rows[: len(before)] == before
    assert [row["row"] for row in reader.rows] == [*range(1, count + 1)]
    assert all(int(row[name]) == row[name] for row in reader.rows for name in ("examples", *COUNTS))
    assert reader.rows or reader.status not in ("finished", "stopped")
    values = [value for row in reader.rows for value in row.values()]
    assert all(type(value) is float or (type(value) is int and abs(value) < 2**63) for value in values)
    assert reader.status in (None, "running", "finished", "diverged", "stopped", "failed")
    assert (reader.note + reader.machine).encode() is not None
    assert struct.pack("q", reader.status_time_ms)


LACKING = {name: value for name, value in made_row(1).items() if name != "lr"}
OFF = [{"lr": "0.1"}, {"lr": [1]}, *({name: value} for name in COUNTS for value in (1.5, math.inf, math.nan, -1, True))]


@pytest.mark.parametrize("torn", [{"row": 1}, LACKING, *(made_row(1) | change for change in OFF)])
def test_a_row_has_all_its_metrics_and_whole_counts(tmp_path, torn):
    (tmp_path / "journal.jsonl").write_bytes(line({"row": torn}) + b"\n" + line({"row": made_row(1)}) + b"\n")
    assert Reader(tmp_path / "journal.jsonl").poll().rows == [made_row(1)]


# --- Specs, policies, schedules


def schedules(parts):
    """Something like a schedule of each kind."""
    kinds = [
        st.fixed_dictionaries(
            {"schedule": st.just(name)}
            | dict.fromkeys(kind.__dataclass_fields__, numbers | parts | st.lists(numbers, max_size=4))
        )
        for name, kind in KINDS.items()
    ]
    stages = st.lists(st.tuples(numbers, parts).map(list), max_size=3)
    return st.one_of(*kinds, stages.map(lambda parts: {"schedule": "Stages", "parts": parts}))


likely = st.recursive(numbers | st.from_type(Schedule).map(Schedule.to_dict), schedules, max_leaves=8)
batches = likely | st.from_type(Schedule).map(lambda schedule: schedule.scaled(100).to_dict())


def taken(read, value):
    """What the reader makes of it: a value that goes to JSON and back, or None for a ValueError of one line."""
    try:
        made = read(value)
    except ValueError as error:
        reason = str(error)
    else:
        reason = None
    if reason is not None:
        assert reason.isprintable()
        return None
    assert read(json.loads(json.dumps(made.to_dict()))) == made
    assert hash(made) == hash(read(value))
    assert repr(made)
    return made


def nested(depth, inner=0.1):
    return inner if depth == 0 else {"schedule": "Power", "of": nested(depth - 1, inner), "exponent": 1}


@given(anything | likely)
@example({"schedule": "Constant", "value": "\x1b[2J\n"})
@example({"schedule": "Constant", "value": 10**400})
@example({"schedule": ["Constant"], "value": 1})
@example(nested(DEPTH))
def test_anything_is_a_schedule_or_refused(value):
    taken(schedule_from_dict, value)


@given(likely, batches, likely)
@example(1, {"schedule": "Steps", "value": 1e300, "at": [1], "factor": 1e300}, 0)
@example(1, {"schedule": "Power", "of": -1, "exponent": 0.5}, 0)
@example(1, {"schedule": "Power", "of": 0, "exponent": -1}, 0)
@example(1, {"schedule": "Shrinkage", "batch_size": 0}, 0)
@example(10**400, 1, 0)
def test_anything_is_a_policy_or_refused(lr, batch_size, momentum):
    policy = taken(Policy.from_dict, {"lr": lr, "batch_size": batch_size, "momentum": momentum})
    if policy is not None:
        lr, batch_size, momentum = policy(0.0)
        assert lr >= 0
        assert batch_size >= 1
        assert 0 <= momentum < 1


@given(anything)
def test_anything_else_is_no_policy(value):
    assert taken(Policy.from_dict, value) is None


@given(st.dictionaries(st.sampled_from([*SPEC]), anything | words | numbers, max_size=1), likely, batches)
@example({"seed": 10**30}, 0.1, 16)
@example({"examples": 10**400}, 0.1, 16)
@example({"epochs": 1e308}, 0.1, 16)
@example({"epochs": 1e6}, {"schedule": "Triangular2", "low": 0, "high": 1, "stepsize": 1e-3}, 16)
@example({"weight_decay": 10**400}, 0.1, 16)
@example({"label": [[]]}, 0.1, 16)
@example({"seed": True}, 0.1, 16)
@example({"overrides": [["a", "b"], ["c"]]}, 0.1, 16)
def test_anything_is_a_spec_or_refused(changes, lr, batch_size):
    policy = {"lr": lr, "batch_size": batch_size, "momentum": 0.9}
    spec = taken(RunSpec.from_dict, SPEC | {"policy": policy} | changes)
    if spec is not None:
        assert len(spec.key) == 16
        assert spec.label.isprintable()
        assert type(spec.seed) is type(spec.examples) is int
        assert math.isfinite(spec.epochs)


@pytest.mark.parametrize("kind", ["list", "Power", "Growth", "Shrinkage", "Stages"])
@pytest.mark.parametrize("depth", [DEPTH + 1, 500, 900])
def test_what_is_nested_too_deep_is_refused(kind, depth):
    value = 1.0
    for _ in range(depth):
        value = {
            "list": [value],
            "Power": {"schedule": "Power", "of": value, "exponent": 1},
            "Growth": {"schedule": "Growth", "lr": value, "batch_size": 1, "until": None, "max_batch_size": None},
            "Shrinkage": {"schedule": "Shrinkage", "batch_size": value},
            "Stages": {"schedule": "Stages", "parts": [[1, value]]},
        }[kind]
    for read, given_value in (
        (schedule_from_dict, value),
        (Policy.from_dict, {"lr": value, "batch_size": 1, "momentum": 0}),
        (Policy.from_dict, value),
        (RunSpec.from_dict, SPEC | {"policy": {"lr": 0.1, "batch_size": value, "momentum": 0}}),
        (RunSpec.from_dict, SPEC | {"label": value}),
        (RunSpec.from_dict, SPEC | {"overrides": [value]}),
    ):
        assert taken(read, given_value) is None


@pytest.mark.parametrize("kind", ["Growth", "Shrinkage"])
def test_growth_of_growth_is_worked_out_level_by_level(kind):
    """Each level once: to ask twice of each would take 2^20 times as long, and this test an hour."""
    value = {"schedule": "Triangular", "low": 1, "high": 8, "stepsize": 2}
    for _ in range(DEPTH - 1):
        value = {"schedule": kind, "batch_size": value} if kind == "Shrinkage" else {
            "schedule": kind, "lr": value, "batch_size": 1, "until": None, "max_batch_size": 64}  # fmt: skip
    schedule = schedule_from_dict(value)
    assert all(0 < schedule(epoch / 4) <= 64 for epoch in range(1, 33))


def test_a_cycle_may_fade_out():
    assert schedule_from_dict({"schedule": "Triangular2", "low": 1, "high": 16, "stepsize": 1})(5001) == 1


OUTSIDE = SPEC | {"dataset": "imagefolder:../x"}
contents = st.binary(max_size=200) | anything.map(line) | st.sampled_from([b"[" * 200_000, b"", b"\xff", line(OUTSIDE)])


@given(contents)
def test_a_run_s_folder_holds_a_spec_or_is_refused(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("folder")
    (folder / "spec.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"spec\.json: ") as caught:
        RunFolder(folder)
    assert str(caught.value).isprintable()


# --- rows.csv of the store

HEADER = ["row", "time_ms", *METRICS]
cells = st.sampled_from(["", "1", "2", "nan", "inf", "-1e400", "x", "True", "\0", '"', "9" * 5000, "1;2"]) | st.text(
    max_size=4
)


@given(st.lists(st.sampled_from([*HEADER, "", "x"]), max_size=20), st.lists(st.lists(cells, max_size=18), max_size=4))
@example(HEADER, [[*map(str, made_row(1).values())], [*map(str, made_row(1).values())]])
@example(HEADER, [["1"] * 16])
@example(HEADER, [["1"] * 14])
@example(HEADER, [["1"] * 3 + ["1.5"] + ["1"] * 11])
@example(HEADER, [["x" * 200_000]])
def test_rows_of_the_store_are_1_to_n_with_all_their_metrics_or_refused(header, body):
    text = "\n".join(map(",".join, [header, *body]))
    try:
        found = store._rows(text)
    except (ValueError, store.csv.Error):
        return
    assert [row["row"] for row in found] == [*range(1, len(found) + 1)]
    assert all(int(row[name]) == row[name] for row in found for name in COUNTS)
    assert all(row.keys() >= set(HEADER) for row in found)


def test_rows_of_the_store_are_what_was_sent():
    sent = [made_row(1), made_row(2) | {"gradient_noise_scale": math.nan}]
    header = [*HEADER, "gradient_noise_scale"]
    text = "\n".join([",".join(header), *(",".join(str(row.get(name, "")) for name in header) for row in sent)])
    assert repr(store._rows(text)) == repr([{name: float(row[name]) for name in header if name in row} for row in sent])
