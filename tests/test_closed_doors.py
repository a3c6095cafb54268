"""What comes from elsewhere is data: it runs no code, leaves its folder nowhere, and passes for no markup."""

import io
import pickle
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from made import finish, lrbs, made_row, made_spec, noise_spec, start, write_sweep
from rich.console import Console
from torchvision import datasets

from lrbs_core import Claim, Policy, Triangular, decoding, figures, models, report, store, tables
from lrbs_core.html import html
from lrbs_core.journal import Journal, RunFolder
from lrbs_core.progress import Watch
from lrbs_core.sweeping import Sweep, load, override


class Code:
    """Writes a file as soon as it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def refused(call, match, *arguments, **named):
    """The call raises ValueError, in one line."""
    with pytest.raises(ValueError, match=match) as caught:
        call(*arguments, **named)
    assert str(caught.value).isprintable()


# --- Files that could hold code -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda _, mark: pickle.dumps(Code(mark)),
        lambda content, _: content[: len(content) // 2],
        lambda content, _: content[:-100] + bytes(100),
        lambda *_: b"",
        lambda *_: b"not a checkpoint",
        lambda content, mark: saved(load_tensors(content) | {"rows": Code(mark)}),
        lambda content, _: saved(load_tensors(content) | {"optimizer": {}}),
        lambda *_: saved([1, 2]),
    ],
    ids=["pickle", "half", "no directory", "empty", "text", "code within", "no optimizer", "list"],
)
def test_a_checkpoint_that_is_none_runs_nothing_and_is_named_with_the_way_out(tmp_path, change):
    checkpoint, mark = tmp_path / "checkpoint.pt", tmp_path / "executed"
    finish(start(noise_spec(epochs=1.0), checkpoint))
    checkpoint.write_bytes(change(checkpoint.read_bytes(), mark))
    message = rf"run 'made': {checkpoint} must be a checkpoint .* \(\w+\): remove it, and the run begins anew"
    refused(lambda: finish(start(noise_spec(epochs=1.0), checkpoint)), message)
    assert not mark.exists()
    checkpoint.unlink()
    assert finish(start(noise_spec(epochs=1.0), checkpoint))[1] == "finished"


def load_tensors(content):
    return torch.load(io.BytesIO(content), weights_only=True)


def saved(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["object array", "pickle", "half", "other type", "classes", "gone"])
def test_decoded_data_that_is_none_runs_nothing_and_is_named_with_the_way_out(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("LRBS_CACHE", str(tmp_path))
    mark, array = tmp_path / "executed", np.zeros((2, 8, 8, 3), dtype=np.uint8)
    arrays = decoding.Arrays(array, np.zeros(2, dtype=np.int64), array, np.zeros(2, dtype=np.int64), ("a",))
    decoding._cached("cifar10-torchvision", lambda: arrays)
    place = tmp_path / "cifar10-torchvision"
    file = place / "train_pixels.npy"
    if kind == "object array":
        np.save(file, np.array([Code(mark)], dtype=object), allow_pickle=True)
    elif kind == "pickle":
        file.write_bytes(pickle.dumps(Code(mark)))
    elif kind == "half":
        file.write_bytes(file.read_bytes()[:200])
    elif kind == "other type":
        np.save(file, np.zeros(3))
    elif kind == "classes":
        (place / "classes.json").write_text("[" * 100_000)
    else:
        file.unlink()
    refused(decoding.decode, rf"decoded data in {place} cannot be read .*: remove that folder", "cifar10", tmp_path)
    assert not mark.exists()


def test_cifar_files_are_pickles_and_read_only_with_the_checksums_of_the_real_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("LRBS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", lambda *_, **__: None)
    kind, mark = datasets.CIFAR10, tmp_path / "executed"
    for name, _ in [*kind.train_list, *kind.test_list, (kind.meta["filename"], "")]:
        path = tmp_path / kind.base_folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps(Code(mark)))
    refused(decoding.decode, "cifar10 is not in", "cifar10", tmp_path)
    assert not mark.exists()


# --- Names ----------------------------------------------------------------------------------------------------------

OUTSIDE = ["../../etc", "/etc", "a/../../b", "..", ".", "a//b", "a\0b", "a\nb", "..\\a", "a\x1b[31m", ""]


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_dataset_lies_outside_the_folder_of_datasets(tmp_path, name):
    spec = made_spec()
    refused(replace, "dataset must be|label", spec, dataset=f"imagefolder:{name}", examples=100)
    sweep = Sweep("made", "", (), (spec,))
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "b.png").touch()
    with pytest.raises(ValueError, match=r"dataset must be|CLASS/IMAGE|null byte"):
        override(sweep, dataset=f"imagefolder:{name}", data_dir=tmp_path / "data")


def test_a_folder_below_another_is_a_dataset():
    assert replace(made_spec(), dataset="imagefolder:a/b c", examples=100).dataset == "imagefolder:a/b c"


@pytest.mark.parametrize("name", ["os.system", "__import__('os')", "../x", "", "a b", "resnet\u0662\u0660", "x\x1b[2J"])
def test_a_model_is_looked_up_and_never_imported(name):
    refused(replace, "model must be", made_spec(), model=name)
    refused(models.build, "model must be one of", name, 10, 3, 32, None)


@pytest.mark.parametrize("label", ["a\nb", "\x1b[31mred", "a\0", "\u202egnp", " a", "", "\ud800", 5, ["a"], "a\rb"])
def test_a_label_is_printable_text(label):
    refused(replace, "label must be printable", made_spec(), label=label)


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../a", "/a", "a\0b", "a\nb", "a\x1b[31m"])
def test_a_sweep_is_one_folder_below_out(tmp_path, name):
    refused(RunFolder.create, "a sweep's name must do as that of a folder", tmp_path / "out", name, made_spec())
    assert list(tmp_path.iterdir()) == []


def test_a_file_whose_stem_is_dots_is_no_way_out(tmp_path):
    path = write_sweep(tmp_path / "...py")
    assert load(path).name == ".."
    result = lrbs("run", path, "--offline", cwd=tmp_path)
    assert (result.returncode, "must do as that of a folder" in result.stderr) == (2, True)


# --- Markup ---------------------------------------------------------------------------------------------------------

LABELS = (
    "<script>alert(1)</script>", "[red]x[/red]", "[/]", "[link=http://x]y", "`code` *bold* _it_ | cell", ":warning:",
    "[a](javascript:alert(1))", "</title></td><img src=x onerror=alert(1)>", "{{ 7 * 7 }}", "${7*7} \\", "&lt; &amp;",
    "=1+1", "datum.x'\"", "../../x", "$(touch x); `touch x`", "# heading", "![a](b)",
)  # fmt: skip
SHOWN = "".join(LABELS)


def hostile_report():
    """A report whose every name is hostile."""
    runs = tuple(
        replace(made_spec(label, seed), policy=Policy(Triangular(0.01, 0.1 + n / 100, 1), 16, 0.9))
        for n, label in enumerate(LABELS)
        for seed in range(2)
    )
    claim = Claim(LABELS[0], LABELS[1], "test_accuracy", 93.5, tolerance=2.0, versus=LABELS[2])
    sweep = Sweep("a;`touch x`<b>[red]", f"{LABELS[7]}\n## other", (claim,), runs)
    machine = "abacus\n## other\n<script>[red]\x1b[2J"
    rows = [made_row(1, 50.0), made_row(2, 90.0)]
    pairs = [(spec, store.Record(spec.key, "finished", machine, rows)) for spec in runs]
    return sweep, pairs, report.overview(sweep, pairs, baseline=LABELS[0], target=80.0)


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        assert not any(name.startswith("on") or name.endswith(("href", "script")) for name, _ in attrs)
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def test_no_name_is_markup_in_html_or_in_its_figures(monkeypatch):
    drawn, svg = [], figures.svg
    monkeypatch.setattr(figures, "svg", lambda chart: drawn.append(svg(chart)) or drawn[-1])
    sweep, pairs, document = hostile_report()
    page = Page(html(sweep, pairs, document, commit=""))
    assert not {"script", "b", "red", "iframe"} & set(page.tags)
    assert "img" in page.tags
    assert all(label in page.text for label in LABELS)
    assert "lrbs run 'sweeps/a;`touch x`<b>[red].py'" in page.text
    for text in drawn:
        assert not {"script", "foreignobject", "a", "image", "img"} & set(Page(text).tags)
    assert any("<script>alert(1)</script>"[:12] in Page(text).text for text in drawn)


def test_no_name_is_markup_in_markdown(tmp_path):
    _, _, document = hostile_report()
    text = report.markdown(document)
    page = tmp_path / "RESULTS.md"
    for _ in range(2):  # and what is written can be replaced
        report.write_section(page, text)
    assert page.read_text().count("\n## ") == 1
    assert "\x1b" not in text
    lines = [line for line in text.splitlines() if not line.startswith("    ")]
    for mark in (r"<[A-Za-z/!]", r"[\[\]`*~]", r"&\w+;"):
        assert not re.search(rf"(?<!\\){mark}", "\n".join(lines)), mark
    columns = [len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")]
    assert set(columns) <= {5, 6, 7, 8}  # of the tables


def test_no_name_is_markup_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "2000")
    sweep, _, document = hostile_report()
    tables.print_overview(document)
    tables.print_plan(sweep, {}, 128)
    said = capsys.readouterr().out
    assert all(label.rstrip("\\ ") in said for label in LABELS)
    assert said.count("a;`touch x`<b>[red]") == 2  # report and plan
    assert "\x1b" not in said


def test_a_note_of_a_journal_drives_no_terminal(tmp_path, capsys):
    folder = RunFolder.create(tmp_path, "made", made_spec("[red]a"))
    with Watch([folder]) as watch:
        watch.console = Console(file=sys.stderr, force_terminal=False)
        with Journal(folder.journal_path) as journal:
            journal.set_status("failed", "no memory\nOSError: \x1b]0;title\x07[red]\ud800")
    said = capsys.readouterr().err
    assert "[red]a seed=0: failed" in said
    assert "[red]\ufffd" in said
    assert not {"\x1b", "\x07"} & set(said)
