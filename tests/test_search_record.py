"""The record of a search: complete lines alone, one writer."""

import os
import subprocess
import sys

import pytest

from lrbs_core.search_record import Asked, SearchRecord, read_record

FIRST, SECOND = Asked({"lr": 0.1, "net": "mlp"}, ["a1", "a2"]), Asked({"lr": 0.2, "net": None}, ["b1", "b2"])


def test_what_is_appended_is_read(tmp_path):
    path = tmp_path / "new" / "record.jsonl"
    assert read_record(path) == []
    for asked in (FIRST, SECOND):
        with SearchRecord(path) as record:
            record.append(asked)
    assert read_record(path) == [FIRST, SECOND]


def test_a_line_torn_anywhere_is_passed_over_and_ended_by_the_next_writer(tmp_path):
    path = tmp_path / "record.jsonl"
    with SearchRecord(path) as record:
        record.append(FIRST)
        whole = path.stat().st_size
        record.append(SECOND)
    content = path.read_bytes()
    for length in range(whole, len(content)):
        path.write_bytes(content[:length])
        seen = read_record(path)
        with SearchRecord(path) as record:
            record.append(SECOND)
        assert seen == [FIRST]
        assert read_record(path) == [FIRST, SECOND], length


@pytest.mark.parametrize(
    "line",
    [
        '{"point": 5, "keys": ["b1"]}', '{"point": {"lr": 1}, "keys": "b1"}', '{"point": {"lr": 1}, "keys": [["b1"]]}',
        '{"point": {"lr": 1}}', "[]", "", "{", "[" * 200_000, "\x00",
    ],
)  # fmt: skip
def test_a_line_that_is_no_trial_is_refused_in_one_line_that_names_the_file(line, tmp_path):
    path = tmp_path / "record.jsonl"
    with SearchRecord(path) as record:
        record.append(FIRST)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=rf"^{path}: line 2 must be a point and the keys of its runs, but got .*$"):
        read_record(path)


PROGRAM = """
import sys
from pathlib import Path
from lrbs_core.search_record import SearchRecord
SearchRecord(Path(sys.argv[1]))
"""


def test_another_process_is_refused_in_one_line(tmp_path):
    path = tmp_path / "record.jsonl"
    with SearchRecord(path) as record:
        record.append(FIRST)
        other = subprocess.run([sys.executable, "-c", PROGRAM, path], capture_output=True, text=True, env=os.environ)
        assert "ValueError: another process runs this search" in other.stderr.splitlines()[-1]
    assert read_record(path) == [FIRST]
    with pytest.raises(ValueError, match="closed file"):
        record.append(SECOND)
