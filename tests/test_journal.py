"""The journal: what is in it when a write was cut short at any place, and what two processes may do to it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import made_row

from lrbs_core.journal import Journal, Reader, write_whole


def row(number, loss=0.5):
    return made_row(number) | {"train_loss": loss}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.jsonl"


def fill(path, rows, status=None):
    with Journal(path) as journal:
        for one in rows:
            journal.append(one)
        if status:
            journal.set_status(status)


def program(code, *arguments):
    """Another process that runs `code`, and whose every printed line can be waited for."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_rows_and_statuses_come_back(path):
    before = int(time.time() * 1000)
    with Journal(path) as journal:
        journal.set_status("running", note="1 x H200")
        journal.append(row(1))
        journal.append(row(2, loss=float("nan")))
        assert (len(journal.rows), journal.status) == (2, "running")
        journal.set_status("failed", note="no\nmemory")
    reader = Reader(path).poll()
    assert reader.rows[0] == row(1)
    assert [list(one) for one in reader.rows] == [list(row(1))] * 2
    assert (reader.status, reader.note, reader.machine) == ("failed", "no\nmemory", "1 x H200")
    assert before <= reader.started_ms <= reader.status_time_ms <= time.time() * 1000
    with Journal(path) as journal:
        assert (len(journal.rows), journal.status) == (2, "failed")


def test_a_status_counts_with_its_time_and_note_and_the_start_is_that_of_the_first(path):
    told = [{"status": "running", "time_ms": 5, "note": "x"}, {"status": "running", "time_ms": 9}]
    untold = [{"status": "failed"}, {"status": "failed", "time_ms": "8"}, {"status": "won", "time_ms": 8}]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*untold, *told, {"time_ms": 8}, *untold]))
    reader = Reader(path).poll()
    assert (reader.status, reader.started_ms, reader.status_time_ms) == ("running", 5, 9)
    assert (reader.note, reader.machine) == ("", "")


@pytest.mark.parametrize("status", ["finished", "stopped"])
def test_no_run_comes_to_an_end_of_these_without_a_row(path, status):
    path.write_text(json.dumps({"status": status, "time_ms": 1}) + "\n")
    assert Reader(path).poll().status is None
    fill(path, [row(1)], status)
    assert Reader(path).poll().status == status


def test_a_journal_that_is_not_there_is_empty(path):
    reader = Reader(path).poll()
    assert (reader.rows, reader.status, reader.note, reader.status_time_ms, path.exists()) == ([], None, "", 0, False)


def test_the_first_version_of_a_row_stands(path):
    fill(path, [row(1, loss=1), row(1, loss=2), row(2, loss=3)])
    fill(path, [row(1, loss=4), row(2, loss=5), row(3, loss=6)])
    with path.open("a") as file:
        file.write(json.dumps({"row": row(2, loss=7)}) + "\n")
    assert [one["train_loss"] for one in Reader(path).poll().rows] == [1, 3, 6]
    assert path.read_text().count("\n") == 4


def test_a_gap_in_the_rows_is_refused(path):
    with (
        Journal(path) as journal,
        pytest.raises(ValueError, match="rows must follow one another, but got row 2 after 0"),
    ):
        journal.append(row(2))
    assert path.read_bytes() == b""


def test_a_line_torn_at_any_byte_costs_that_line_alone(path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    fill(path, [row(1, loss=1), row(2, loss=1)])
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        kept = sum(length >= end for end in (whole.index(b"\n"), len(whole) - 1))  # lacking but its end, a line stands
        with Journal(path) as journal:
            assert len(journal.rows) == kept
            for number in range(1, 4):
                journal.append(row(number, loss=2))
            assert journal.rows == Reader(path).poll().rows
        assert [one["train_loss"] for one in journal.rows] == [1] * kept + [2] * (3 - kept)


def test_a_reader_takes_each_line_once_and_when_it_is_complete(path, monkeypatch):
    taken, take = [], Reader._take
    monkeypatch.setattr(Reader, "_take", lambda self, line: (taken.append(line), take(self, line)))
    reader, content = Reader(path), b""
    first, second, third = (json.dumps({"row": row(number)}).encode() for number in (1, 2, 3))
    for chunk in (first + b"\n" + second[:15], second[15:], b"\n" + third + b"\n", b""):
        content += chunk
        path.write_bytes(content)
        assert len(reader.poll().rows) == len(taken) == content.count(b"\n")
    assert [one["row"] for one in reader.rows] == [1, 2, 3]


words = st.sampled_from(["row", "status", "running", "time_ms"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner) | st.dictionaries(words, inner),
    max_leaves=5,
)
foreign_lines = (st.binary() | values.map(lambda value: json.dumps(value).encode())).filter(
    lambda line: not any(text in line for text in (b"\n", b"\r", b'"row": {'))  # neither two lines nor a row
)


@given(st.lists(foreign_lines), st.lists(st.integers(1, 1000), max_size=5))
def test_foreign_lines_between_the_rows_are_passed_over(tmp_path_factory, foreign, cuts):
    path = tmp_path_factory.mktemp("foreign") / "journal.jsonl"
    lines = [json.dumps({"row": row(number)}).encode() for number in range(1, 4)]
    for line, at in zip(foreign, cuts * len(foreign) + [0] * len(foreign), strict=False):
        lines.insert(at % (len(lines) + 1), line)
    content = b"".join(line + b"\n" for line in lines)
    reader = Reader(path)
    for end in sorted(cut % (len(content) + 1) for cut in cuts):
        path.write_bytes(content[:end])
        reader.poll()
    path.write_bytes(content)
    assert reader.poll().rows == Reader(path).poll().rows == [row(1), row(2), row(3)]
    assert reader.status == Reader(path).poll().status


def test_a_row_is_synced_before_append_returns(path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(path.read_bytes()))
    with Journal(path) as journal:
        journal.append(row(1))
        assert json.loads(synced[-1]) == {"row": row(1)}
        journal.set_status("finished")
        assert json.loads(synced[-1].splitlines()[1])["status"] == "finished"
    assert len(synced) == 2


def test_a_second_process_may_read_but_not_write(path):
    code = "import sys, pathlib; from lrbs_core.journal import Journal\ntry: Journal(pathlib.Path(sys.argv[1]))\n"
    code += "except BlockingIOError as error: print(error)\nelse: print('got it')"
    with Journal(path) as journal:
        journal.append(row(1))
        assert program(code, path).communicate()[0] == f"{path.parent} is being run by another process\n"
        journal.append(row(2))
    assert program(code, path).communicate()[0] == "got it\n"
    assert len(Reader(path).poll().rows) == 2


def test_a_process_killed_while_it_appends_leaves_a_prefix_that_can_go_on(path):
    code = """if True:
        import itertools, pathlib, sys
        from lrbs_core.journal import NEEDED, Journal
        with Journal(pathlib.Path(sys.argv[1])) as journal:
            for number in itertools.count(len(journal.rows) + 1):
                filling = dict.fromkeys([*NEEDED, *map(str, range(200))], number)
                journal.append(filling | {"train_loss": number / 2})
                print(number, flush=True)
        """
    told = 0
    for _ in range(3):
        with program(code, path) as writer:
            for _ in range(20):
                told = int(writer.stdout.readline())
            writer.kill()
            told = max([told, *map(int, writer.stdout.read().split())])
        assert writer.returncode == -signal.SIGKILL
        rows = Reader(path).poll().rows
        assert len(rows) in (told, told + 1)  # all that append() returned for, and perhaps the one it was at
        assert [(one["row"], one["train_loss"]) for one in rows] == [(n, n / 2) for n in range(1, len(rows) + 1)]
    fill(path, [row(len(rows) + 1)], "finished")
    assert (len(Reader(path).poll().rows), Reader(path).poll().status) == (len(rows) + 1, "finished")


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "spec.json"
    write_whole(path, b"old")

    def full(file):
        assert os.fstat(file).st_size == 3  # all of it has left this process by now
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    monkeypatch.undo()
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert {file.name for file in tmp_path.iterdir()} == {"spec.json"}


def test_two_that_write_it_at_once_may_be_processes_of_one_number_in_two_containers(tmp_path, monkeypatch):
    path, fsync = tmp_path / "spec.json", os.fsync

    def meanwhile(file):
        monkeypatch.setattr(os, "fsync", fsync)
        write_whole(path, b"the other's")

    monkeypatch.setattr(os, "fsync", meanwhile)
    write_whole(path, b"one's own")
    assert (path.read_bytes(), [file.name for file in tmp_path.iterdir()]) == (b"one's own", ["spec.json"])


def test_who_reads_while_it_is_written_over_sees_one_version(tmp_path):
    path = tmp_path / "checkpoint.pt"
    code = """if True:
        import itertools, pathlib, sys
        from lrbs_core.journal import write_whole
        for number in itertools.count():
            write_whole(pathlib.Path(sys.argv[1]), b"%d" % (number % 10) * 1_000_000)
            number or print("begun", flush=True)
        """
    with program(code, path) as writer:
        writer.stdout.readline()
        versions = [path.read_bytes() for _ in range(50)]
        writer.kill()
    assert {(len(version), len(set(version))) for version in [*versions, path.read_bytes()]} == {(1_000_000, 1)}
