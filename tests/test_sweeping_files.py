"""The file of a sweep: what it must hold, and how an error in it is told."""

import importlib
import re
import sys
from dataclasses import replace

import pytest
from made import made_spec

from lrbs_core.claims import Claim
from lrbs_core.policies import Policy
from lrbs_core.sweeping import Sweep, load

FILE = """SOURCE = "a paper"
from lrbs_core import Claim, Policy, RunSpec
CLAIMS = [Claim("Table 1", "decaying", "updates", 60)]
def runs():
    return [
        RunSpec(label="decaying", policy=Policy(0.1, 100, 0.9), dataset="digits", model="mlp", optimizer="sgd",
                weight_decay=0, ghost_size=None, augmentation="none", normalization="channel", epochs=4,
                partial="keep", seed=seed)
        for seed in range(2)
    ]
"""


def test_a_file_is_loaded_by_what_it_defines(tmp_path):
    path = tmp_path / "smith2018.py"
    path.write_text(FILE)
    claims = (Claim("Table 1", "decaying", "updates", 60),)
    runs = tuple(replace(made_spec(seed=seed, epochs=4), policy=Policy(0.1, 100, 0.9)) for seed in range(2))
    assert load(path) == Sweep("smith2018", "a paper", claims, runs)


DATACLASS = """from __future__ import annotations
import dataclasses
@dataclasses.dataclass
class Paper:
    name: str
"""


@pytest.mark.parametrize("name", ["smith.py", "fractions.py"])
def test_a_file_may_hold_a_dataclass_and_be_named_like_another_or_a_library(tmp_path, name):
    before = set(sys.modules)
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / name
        path.write_text(DATACLASS + FILE.replace('"a paper"', f'Paper("{folder}").name'))
        assert load(path).source == folder
    assert {name for name in sys.modules if name not in before and "lrbs" not in name} == set()
    assert importlib.import_module("fractions").Fraction(1, 2) == 0.5


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("def runs():", "def runs(:", "{path}:4: SyntaxError: "),
        ("import Claim, Policy", "import Claim, Police", "{path}:2: ImportError: cannot import name 'Police'"),
        ("range(2)", "range(two)", "{path}:9: NameError: name 'two' is not defined"),
        ("epochs=4", "epochs=-4", "{path}:6: ValueError: run 'decaying': epochs > 0 must hold, but got epochs=-4.0"),
        ("SOURCE", "SOUCE", "{path}: ValueError: a sweep must define SOURCE, CLAIMS and runs(), but SOURCE is missing"),
        ("seed=seed", "seed=1", "{path}: ValueError: sweep smith: runs must differ, but 'decaying' and 'decaying'"),
        ("range(2)", "()", "{path}: ValueError: sweep smith: runs() must give at least one run"),
        ('"updates", 60', '"updates"', "{path}:3: TypeError: "),
    ],
)
@pytest.mark.parametrize("absolute", [True, False], ids=["absolute", "relative"])
def test_an_error_in_a_file_is_told_in_one_line_with_its_place(tmp_path, monkeypatch, old, new, message, absolute):
    monkeypatch.chdir(tmp_path)
    path = (tmp_path if absolute else tmp_path.relative_to(tmp_path)) / "smith.py"
    path.write_text(FILE.replace(old, new, 1))
    with pytest.raises(ValueError, match=re.escape(message.format(path=path))) as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "why"), [("none.py", ": no such file"), ("folder.py", ""), ("a.txt", "")])
def test_what_is_no_python_file_is_refused(tmp_path, name, why):
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "a.txt").write_text(FILE)
    message = f"a sweep must be a Python file, but got {tmp_path / name}{why}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load(tmp_path / name)
