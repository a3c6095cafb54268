import time

import pytest
from made import made_row, made_run, made_spec

from lrbs_core.journal import Journal, RunFolder
from lrbs_core.progress import Watch


def test_ended_runs_are_told_once_each_with_what_came_out(tmp_path, capsys):
    folders = [RunFolder.create(tmp_path, "made", made_spec(seed=seed)) for seed in range(3)]
    with Watch(folders, poll_seconds=0.01):
        made_run(tmp_path, folders[0].spec, [made_row(1, 91.25)])
        made_run(tmp_path, folders[1].spec, [], status="failed")
        time.sleep(0.1)
    told = capsys.readouterr().err.splitlines()
    assert sorted(line.partition("] ")[2].partition(", about")[0] for line in told) == [
        "decaying seed=0: finished, test accuracy 91.25 %, 1 updates in 1.0 s",
        "decaying seed=1: failed: OSError: out of paper",
    ]
    assert {line.partition("]")[0] for line in told} == {"[1/3", "[2/3"}


def test_a_run_that_failed_without_a_word_keeps_nothing_from_being_told(tmp_path, capsys):
    folders = [RunFolder.create(tmp_path, "made", made_spec(seed=seed)) for seed in range(2)]
    with Watch(folders, poll_seconds=0.01), Journal(folders[0].journal_path) as journal:
        journal.set_status("failed", note=" \n")
        time.sleep(0.05)
        made_run(tmp_path, folders[1].spec, [made_row(1)])
    told = [line.partition("] ")[2].partition(", about")[0] for line in capsys.readouterr().err.splitlines()]
    assert told[0] == "decaying seed=0: failed: ?"
    assert told[1].startswith("decaying seed=1: finished")


def test_a_run_that_had_failed_before_is_news_only_when_it_ends_again(tmp_path, capsys):
    folder = made_run(tmp_path, made_spec(), [made_row(1)], status="failed")
    time.sleep(0.005)
    with Watch([folder], poll_seconds=0.01) as watch:
        time.sleep(0.05)
        assert capsys.readouterr().err == ""
        made_run(tmp_path, folder.spec, [made_row(1), made_row(2)])
    assert "[1/1] decaying seed=0: finished" in capsys.readouterr().err
    assert watch._to_go() == ""


@pytest.mark.parametrize(("examples", "expected"), [(1437, "0:00:20"), (2874, "0:00:05")])
def test_the_time_to_go_is_what_is_left_at_the_speed_so_far(examples, expected, tmp_path, monkeypatch):
    folder = RunFolder.create(tmp_path, "made", made_spec(epochs=3))  # 4311 examples
    clock = iter([0.0, 10.0])
    monkeypatch.setattr(Watch, "_loop", lambda _: None)
    with Watch([folder]) as watch, Journal(folder.journal_path) as journal:
        journal.set_status("running")
        journal.append(made_row(1) | {"examples": examples})
        watch.readers[0].poll()
        watch._began = next(clock)
        monkeypatch.setattr("lrbs_core.progress.time.monotonic", lambda: next(clock))
        assert watch._to_go() == f", about {expected} to go"
        monkeypatch.undo()


def test_runs_that_become_known_later_are_counted_from_the_start(tmp_path, capsys):
    first, second = (RunFolder.create(tmp_path, "made", made_spec(seed=seed)) for seed in range(2))
    with Watch([], poll_seconds=0.01) as watch:
        watch.unknown = 3
        for folder in (first, second):
            watch.unknown -= 1
            watch.add(folder)
            made_run(tmp_path, folder.spec, [made_row(1)])
            time.sleep(0.05)
        assert ", about " in watch._to_go()
    told = [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert told == ["[1/3] decaying seed=0", "[2/3] decaying seed=1"]
