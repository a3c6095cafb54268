"""A run's folder: it knows its spec and its sweep, and one that cannot be read is named."""

from dataclasses import replace
from pathlib import Path

import pytest
from made import made_spec

from lrbs_core.journal import RunFolder
from lrbs_core.specs import RunSpec

SPEC = made_spec(label="a")


def test_a_run_s_folder_is_named_by_its_key_and_keeps_its_spec(tmp_path):
    folder = RunFolder.create(tmp_path, "smith", SPEC)
    assert (folder.path, folder.sweep, folder.spec) == (tmp_path / "smith" / SPEC.key, "smith", SPEC)
    assert {folder.journal_path.parent, folder.checkpoint_path.parent} == {folder.path}
    renamed = RunSpec.from_dict(SPEC.to_dict() | {"label": "b"})
    assert RunFolder.create(tmp_path, "smith", renamed).path == folder.path
    assert RunFolder(folder.path).spec.label == "b"
    RunFolder.create(tmp_path, "goyal", SPEC)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "spec.json").write_text("{}")
    found, (unreadable,) = RunFolder.find(tmp_path)
    assert [(one.sweep, one.spec.label) for one in found] == [("goyal", "a"), ("smith", "b")]
    assert unreadable.startswith(f"{tmp_path}/a/b/spec.json: a run must have")


def test_a_run_of_a_version_in_which_its_spec_came_to_another_end_is_named_and_not_taken_for_one_of_now(tmp_path):
    now = replace(SPEC, model="vgg16")
    folder = RunFolder.create(tmp_path, "smith", now)
    before = folder.path.rename(folder.path.with_name(now.superseded_key))
    assert RunFolder.find(tmp_path) == (
        [], [f"{before}: run by an earlier lrbs, which brought its spec to another end: use that"]
    )  # fmt: skip
    assert [one.spec for one in RunFolder.find(RunFolder.create(tmp_path, "smith", now).path)[0]] == [now]


@pytest.mark.parametrize("within", [".", "smith", f"smith/{SPEC.key}"])
def test_a_run_knows_its_sweep_wherever_it_is_looked_at_from(tmp_path, monkeypatch, within):
    folder = RunFolder.create(tmp_path, "smith", SPEC)
    monkeypatch.chdir(tmp_path / within)
    assert [found.sweep for found in RunFolder.find(Path())[0]] == ["smith"]
    monkeypatch.chdir(folder.path)
    assert [found.sweep for found in RunFolder.find(Path(".."))[0]] == ["smith"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "folder must hold spec.json, but got .*No such file"),
        ("{", "spec.json: "),
        ("{}", "spec.json: a run must have"),
    ],
)
def test_a_folder_without_a_spec_is_refused(tmp_path, content, message):
    if content:
        (tmp_path / "spec.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        RunFolder(tmp_path)
