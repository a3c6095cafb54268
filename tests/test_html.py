"""The report as a file: complete, of the document's numbers, without network, and safe from what a label may hold."""

import dataclasses
import re
from html.parser import HTMLParser

import pytest
from jinja2 import Environment, PackageLoader
from made import made_noise, made_row, made_spec

from lrbs_core import Claim, Policy, Triangular
from lrbs_core.html import findings, html
from lrbs_core.report import overview
from lrbs_core.store import Record
from lrbs_core.sweeping import Sweep, override

HOSTILE = "<script>alert('no')</script> & \"cycles\""
ACCURACIES = {"constant": [90.0, 90.5, 91.0], HOSTILE: [93.1, 93.4, 94.1]}


def made(**changes):
    policies = {"constant": Policy(0.1, 16, 0.9), HOSTILE: Policy(Triangular(0.01, 0.1, stepsize=0.75), 16, 0.9)}
    runs = [
        dataclasses.replace(made_spec(label, seed), policy=policies[label]) for label in policies for seed in (0, 1, 2)
    ]
    claim = Claim("Table <1>", HOSTILE, "test_accuracy", 93.5, tolerance=2.0)
    sweep = Sweep("made", "Someone & Co", (claim,), tuple(runs))
    pairs = []
    for spec in sweep.runs:
        rows = [
            made_row(number, accuracy) | {"epoch": float(number), "train_seconds": number + spec.seed / 10} | changes
            for number, accuracy in ((1, 50.0), (2, 70.0), (3, ACCURACIES[spec.label][spec.seed]))
        ]
        pairs.append((spec, Record(spec.key, "finished", "an abacus", rows)))
    return sweep, pairs


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.images, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.images += [dict(attrs)["src"]] if tag == "img" else []

    def handle_data(self, data):
        self.text += data


def test_the_page_holds_the_documents_numbers_and_asks_the_network_for_nothing():
    sweep, pairs = made()
    document = overview(sweep, pairs, margin=0.5, target=80.0)
    text = html(sweep, pairs, document, commit="abc123+")
    page = Page(text)
    difference = document["policies"][1]["difference"]
    for shown in (
        "93.53 (92.26 to 94.81)",
        f"{difference['mean']:.2f} ({difference['low']:.2f} to {difference['high']:.2f})",
        "different",
        "reproduced",
        "an abacus",
        "commit abc123+",
        "lrbs run sweeps/made.py",
        "Triangular(low=0.01, high=0.1, stepsize=0.75)",
    ):
        assert shown in page.text
    assert len(page.images) == 6  # with a cyclical policy, and no measured noise
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.images)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(http|//)""", text)


def test_no_label_is_taken_for_markup():
    sweep, pairs = made()
    text = html(sweep, pairs, overview(sweep, pairs), commit="")
    assert "<script" not in text
    assert HOSTILE in Page(text).text
    assert "Table <1>" in Page(text).text


def test_cycles_that_have_not_begun_have_no_figure_and_seeds_apart_in_time_are_named():
    sweep, pairs = made()
    begun = [pair for pair in pairs if pair[0].label == "constant"]
    pages = [html(sweep, some, overview(sweep, some), commit="") for some in (begun, pairs)]
    assert [len(Page(page).images) for page in pages] == [5, 6]
    spec, record = begun[0]
    begun[0] = (spec, record._replace(rows=[row | {"train_seconds": row["row"] * 100} for row in record.rows]))
    page = Page(html(sweep, begun, overview(sweep, begun), commit=""))
    assert "Left out, as the times of the seeds do not overlap: constant." in page.text


def test_what_is_the_same_in_all_runs_is_shown_to_the_digits_of_its_column():
    environment = Environment(loader=PackageLoader("lrbs_core"))
    shown = environment.from_string("{% from 'interval.html' import interval %}{{ interval(value, digits) }}")
    for mean, digits, text in ((1_234_567.0, 0, "1234567"), (97.2222, 2, "97.22"), (81.0, 2, "81")):
        assert shown.render(value={"mean": mean, "low": mean, "high": mean}, digits=digits) == text


def test_a_measured_noise_scale_has_its_figure_and_overrides_their_notice():
    sweep, pairs = made(**made_noise(512.0))
    small = override(sweep, scale=0.5)
    renamed = [(spec, record) for spec, (_, record) in zip(small.runs, pairs, strict=True)]
    page = Page(html(small, renamed, overview(small, renamed), commit=""))
    assert len(page.images) == 7
    assert "gradient noise scale" in page.text
    assert "512 (50" in Page(html(sweep, pairs, overview(sweep, pairs), commit="")).text
    assert "Not the paper's settings" in page.text
    assert "lrbs run sweeps/made.py --scale 0.5" in page.text


def policy(label, accuracy, **difference):
    told = {"n": 3, "low": -1.0, "high": 1.0, "new_seeds": None} | difference
    return {
        "label": label, "updates": 50 if difference else 100, "test_accuracy": {"mean": accuracy, "n": 3},
        "difference": told if difference else None, "not_finished": {},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("difference", "told"),
    [
        ({"mean": 0.2, "verdict": "equivalent"}, "b is as good as a within 1 % (+0.20 ± 1.00 %, 3 pair(s) of runs)"),
        ({"mean": 0.2, "verdict": "different"}, "b is better than a (+0.20 ± 1.00 %"),
        ({"mean": -0.2, "verdict": "different"}, "b is worse than a (-0.20 ± 1.00 %"),
        (
            {"mean": -0.2, "verdict": "not enough runs", "new_seeds": 14},
            "b cannot be told from a yet (-0.20 ± 1.00 %, 3 pair(s) of runs), in 50% of its updates: 14 new seeds, "
            "judged alone, would tell with a chance of 80%",
        ),
        (
            {"mean": -0.2, "verdict": "no difference found"},
            "b shows no difference from a (-0.20 ± 1.00 %, 3 pair(s) of runs), in 50% of its updates: equal only w",
        ),
    ],
)
def test_each_verdict_is_a_sentence(difference, told):
    document = {"baseline": "a", "margin": 1.0, "policies": [policy("a", 90.0), policy("b", 90.2, **difference)]}
    first, second = findings(document)
    assert first == "Highest mean test accuracy: b, 90.20 % over 3 run(s) in 50 updates."
    assert second.startswith(told)


def test_of_the_best_it_is_said_how_many_diverged():
    best = policy("a", 90.0) | {"not_finished": {"diverged": 2, "running": 1}}
    (sentence,) = findings({"baseline": "a", "margin": 0.0, "policies": [best]})
    assert sentence == "Highest mean test accuracy: a, 90.00 % over 3 run(s) (2 more diverged) in 100 updates."


def test_nothing_finished_is_said():
    sweep, pairs = made()
    running = [(spec, record._replace(status="running")) for spec, record in pairs]
    assert findings(overview(sweep, running)) == ["No run has finished yet."]
    assert "No run has finished yet." in html(sweep, running, overview(sweep, running), commit="")
