import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest
from made import made_noise, made_row, made_spec
from scipy import stats

from lrbs_core import Claim, Policy, Steps, Triangular, figures, noise_scale
from lrbs_core.html import html
from lrbs_core.power import claim_power, pairs_for_power, upper_deviation
from lrbs_core.report import PAGE, advice, markdown, overview, range_markdown, write_section
from lrbs_core.results import run_table
from lrbs_core.store import Record
from lrbs_core.sweeping import Sweep, override
from lrbs_core.tables import print_overview

ACCURACIES = {"decaying": [90.1, 90.4, 90.7], "growing": [90.2, 90.3, 90.9]}


def made_sweep(*claims: Claim) -> Sweep:
    policy = Policy(lr=Steps(0.1, at=(1, 2), factor=0.2), batch_size=16, momentum=0.9)
    policies = {"decaying": policy, "growing": policy.grow_batch()}
    runs = [
        dataclasses.replace(made_spec(label, seed), policy=policies[label]) for label in policies for seed in range(3)
    ]
    return Sweep("made", "a made-up paper", claims, tuple(runs))


def records(sweep, labels=("decaying", "growing"), status="finished"):
    return [
        (spec, Record(spec.key, status, "", [made_row(1, ACCURACIES[spec.label][spec.seed])]))
        for spec in sweep.runs
        if spec.label in labels
    ]


def test_the_document_is_the_designs_contract():
    sweep = made_sweep()
    document = overview(sweep, records(sweep))
    assert document["sweep"] == "made"
    first, second = document["policies"]
    assert (first["label"], first["runs"], first["updates"]) == ("decaying", 3, 270)
    assert second["updates"] == sweep.runs[3].plan().updates < 270
    for policy in document["policies"]:
        values = ACCURACIES[policy["label"]]
        low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
        assert policy["test_accuracy"] == pytest.approx({"mean": np.mean(values), "low": low, "high": high, "n": 3})
    # The noise scale at the end of each phase, by the formula.
    assert first["noise_scale"] == pytest.approx([noise_scale(lr, 16, 0.9, 1437) for lr in (0.1, 0.02, 0.004)])
    assert second["noise_scale"] == pytest.approx([noise_scale(0.1, size, 0.9, 1437) for size in (16, 80, 400)])


def test_how_far_the_noise_scales_of_twins_are_apart_is_told_in_every_form(capsys):
    sweep = made_sweep()
    document = overview(sweep, records(sweep))
    # Batches of 80 and 400 for 16 of 1437: (1 - B/N)/(1 - 16/N) - 1.
    off = [(1437 - size) / (1437 - 16) - 1 for size in (16, 80, 400)]
    assert [policy["noise_scale_deviation"] for policy in document["policies"]] == [
        [0, 0, 0],
        pytest.approx(off, abs=1e-6),
    ]
    told = ["noise scale 4.5 % below decaying's from epoch 1, 27 % from epoch 2", "from epoch 2 above N/10 = 144"]
    assert document["policies"][0]["notes"] == []
    print_overview(document)
    shown = capsys.readouterr().out
    page = markdown(document)
    for text in told:
        assert any(text in note for note in document["policies"][1]["notes"])
        assert f"growing: {text}" in shown or text in shown
        assert text in page
    assert "27 %" in html(sweep, records(sweep), document, "")
    # Beside the larger batch the noise of the smaller is the larger.
    (note,) = overview(sweep, records(sweep), baseline="growing")["policies"][0]["notes"]
    assert "noise scale 4.7 % above growing's from epoch 1, 37 % from epoch 2" in note


def test_an_optimizer_without_a_noise_scale_has_none_in_any_form(capsys, tmp_path):
    sweep = made_sweep()
    sweep = dataclasses.replace(sweep, runs=tuple(dataclasses.replace(run, optimizer="adam") for run in sweep.runs))
    pairs = [
        (spec, record._replace(rows=[row | {"noise_scale": float("nan")} for row in record.rows]))
        for spec, record in records(sweep)
    ]
    document = json.loads(json.dumps(overview(sweep, pairs), allow_nan=False))
    for policy in document["policies"]:
        assert set(policy["noise_scale"]) == set(policy["noise_scale_deviation"]) == {None}
        assert any("adam divides by the size of the gradient" in note for note in policy["notes"])
    print_overview(document)
    assert "no noise scale" in capsys.readouterr().out
    page = html(sweep, pairs, document, "")
    assert "no noise scale" in page
    assert not re.search(r"\bnan\b", re.sub(r'base64,[^"]*', "", page), re.IGNORECASE)
    table = run_table(pairs)
    table.to_csv(tmp_path / "runs.csv", index=False)
    assert pd.read_csv(tmp_path / "runs.csv")["noise_scale"].isna().all()
    for numbers in (figures.settings_numbers(sweep.runs), figures.settings_numbers(made_sweep().runs)):
        shown = json.loads(figures.settings_chart(numbers).to_json())["concat"]
        assert len(shown) == (4 if numbers["noise_scale"].notna().any() else 3)


@pytest.mark.parametrize(
    ("claim", "status", "verdict"),
    [
        (Claim("T1", "decaying", "test_accuracy", 90.4, tolerance=2.0), "finished", "reproduced"),
        (Claim("T1", "decaying", "test_accuracy", 70.0, tolerance=2.0), "finished", "not"),
        (Claim("T1", "decaying", "test_accuracy", 90.4, tolerance=0.1), "finished", "too few runs"),
        (Claim("T1", "growing", "test_accuracy", 0, tolerance=1.0, versus="decaying"), "finished", "reproduced"),
        (Claim("T1", "decaying", "test_accuracy", 90.4, tolerance=2.0), "running", "not run"),
        (Claim("T1", "decaying", "test_accuracy", 90.4, tolerance=2.0), "diverged", "not run"),
    ],
)
def test_a_claim_gets_its_verdict(claim, status, verdict):
    sweep = made_sweep(claim)
    (judged,) = overview(sweep, records(sweep, status=status))["claims"]
    assert judged["verdict"] == verdict
    assert judged["expected"] == claim.expected


def test_runs_with_overrides_are_judged_only_against_each_other():
    own = Claim("T1", "decaying", "test_accuracy", 90.4, tolerance=2.0)
    between = Claim("T1", "growing", "test_accuracy", 0, tolerance=1.0, versus="decaying")
    sweep = override(made_sweep(own, between), scale=0.5)
    document = overview(sweep, records(sweep))
    assert document["overrides"] == {"scale": "0.5"}
    assert [claim["verdict"] for claim in document["claims"]] == ["other settings", "reproduced"]
    assert document["claims"][0]["measured"]["mean"] == pytest.approx(90.4)
    nothing = overview(sweep, records(sweep, status="failed"))
    assert [claim["verdict"] for claim in nothing["claims"]] == ["not run", "not run"]


def test_what_is_missing_is_null_in_json():
    sweep = made_sweep(Claim("T1", "growing", "test_accuracy", 90.0))
    document = json.loads(json.dumps(overview(sweep, records(sweep, labels=("decaying",))), allow_nan=False))
    growing = document["policies"][1]
    assert (growing["runs"], growing["of"]) == (0, 3)
    assert growing["test_accuracy"] == {"mean": None, "low": None, "high": None, "n": 0}
    assert document["claims"][0]["measured"] is None


def test_the_terminal_shows_the_documents_numbers_and_no_markup_of_a_label(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    sweep = made_sweep(Claim("[bold]Table 1", "decaying", "test_accuracy", 90.4, tolerance=2.0))
    print_overview(overview(sweep, records(sweep)[:5]))
    shown = capsys.readouterr().out
    for text in ("90.40 ± 0.75", "2/3", "[bold]Table 1", "90.4 ± 2", "reproduced", "88.8 → 3.55"):
        assert text in shown


def test_a_page_that_another_wrote_is_left_as_it_is(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("# Mine\n\nA preamble.\n\n## zebra\n\n## apple\n")
    before = page.read_bytes()
    with pytest.raises(ValueError, match=r"must be written by lrbs alone, but got .*README\.md: give another file"):
        write_section(page, "## made\n")
    assert page.read_bytes() == before


def test_the_page_has_the_documents_numbers_and_the_command_that_made_them():
    sweep = override(made_sweep(Claim("T|1", "decaying", "test_accuracy", 90.4, tolerance=2.0)), scale=0.5)
    pairs = [(spec, Record(spec.key, "finished", "a CPU, bf16", record.rows)) for spec, record in records(sweep)]
    page = markdown(overview(sweep, [*pairs[:2], *pairs[3:]]))
    low, high = stats.t.interval(0.95, 2, np.mean(ACCURACIES["growing"]), stats.sem(ACCURACIES["growing"]))
    for line in (
        "## made at other settings than the paper's",
        "    lrbs run sweeps/made.py --scale 0.5",
        "Run on a CPU, bf16.",
        "| where | claim | paper | ours | n | verdict | power |",
        f"| growing | {sweep.runs[3].plan().updates} | 3 | 90.47 ({low:.2f} to {high:.2f}) | 1 |",
        r"| T\|1 | test accuracy of decaying | 90.4 ± 2 | 90.25 (88.34 to 92.16) | 2 | other settings |  |",
    ):
        assert line in page.splitlines()


def test_where_runs_differ_in_bf16_every_form_of_the_report_says_so(capsys):
    sweep = made_sweep()
    all_pairs = records(sweep)
    for number, mixed in ((0, False), (1, True), (len(all_pairs), False)):
        machines = ["a CPU, torch 2, bf16"] * number + ["a CPU, torch 2"] * (len(all_pairs) - number)
        pairs = [
            (spec, Record(spec.key, record.status, machine, record.rows))
            for (spec, record), machine in zip(all_pairs, machines, strict=True)
        ]
        document = overview(sweep, pairs)
        print_overview(document)
        forms = (capsys.readouterr().out, markdown(document), html(sweep, pairs, document, ""), json.dumps(document))
        assert ["Not of one precision" in form for form in forms] == [mixed] * 4
        assert ["in bf16 are decaying (seed 0), the others" in form for form in forms] == [mixed] * 4


def test_a_section_of_the_page_takes_the_place_of_its_older_self(tmp_path):
    page = tmp_path / "RESULTS.md"
    for section in ("## b\n\n1\n", "## a\n\n2\n", "## b more\n\n3\n", "## b\n\n4\n"):
        write_section(page, section)
    text = page.read_text()
    assert text == PAGE + "\n## a\n\n2\n\n## b\n\n4\n\n## b more\n\n3\n"
    assert [path.name for path in tmp_path.iterdir()] == ["RESULTS.md"]


def test_the_page_of_a_range_test_has_its_bounds_its_seeds_and_the_schedule():
    seeds = [
        {
            "seed": 0,
            "low": 0.00123,
            "high": 0.4,
            "low_found": True,
            "high_found": False,
            "end": "still learns",
            "reason": "",
        },
        {"seed": 1, "low": None, "high": None, "end": None, "reason": "it never learns"},
    ]
    document = {
        "sweep": "made-range-test", "model": "mlp", "dataset": "digits", "batch_size": 16, "momentum": 0.9,
        "judged_on": "validation",
        "ramp": {"low": 0.001, "high": 3.0, "epochs": 4.0, "geometric": True}, "seeds": seeds,
        "low": {"mean": 0.00123, "low": 0.001, "high": 0.0015, "n": 2},
        "high": {"mean": 0.4, "low": None, "high": None, "n": 1},
        "low_found": True, "high_found": False, "policy": None,
    }  # fmt: skip
    page = range_markdown(document).splitlines()
    for line in (
        "## made-range-test: mlp",
        "| seed 0 | 0.00123 | > 0.4 | still learns |",
        "| seed 1 |  |  | it never learns |",
        "| geometric mean | 0.00123 (0.001 to 0.0015) | > 0.4 | n = 2 |",
        "high is no bound: a seed still learns at the end of its ramp. End higher.",
    ):
        assert line in page
    assert "Triangular" not in range_markdown(document)
    reached = document | {"policy": Policy(Triangular(0.0012, 0.4, 4), 16, 0.9).to_dict(), "high_found": True}
    assert "    Triangular(low=0.0012, high=0.4, stepsize=4.0)" in range_markdown(reached).splitlines()
    ramp = "lr from 0.001 to 3 by factors over 4 epochs, batch size 16, momentum 0.9; judged by "
    assert ramp + "validation data, set aside of the training set; test" in range_markdown(document)
    assert ramp + "TEST data, so that test numbers flatter" in range_markdown(document | {"judged_on": "test"})
    hostile = document | {"dataset": "imagefolder:<img src=x>[x](javascript:1)"}
    assert r"test on imagefolder:\<img src=x>\[x\](javascript:1): lr from" in range_markdown(hostile)


def test_a_measured_noise_scale_is_shown_where_there_is_one(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    sweep = made_sweep()
    pairs = [
        (
            spec,
            record._replace(
                rows=[
                    made_row(1) | made_noise(100.0 * (1 + spec.seed)),
                    made_row(2),
                    made_row(3) | made_noise(300.0, 0.01, 100.0),
                ]
            ),
        )
        for spec, record in records(sweep, labels=("growing",))
    ]
    document = overview(sweep, pairs)
    json.dumps(document, allow_nan=False)
    first, second = (policy["gradient_noise_scale"] for policy in document["policies"])
    assert first == [{"scale": None, "low": None, "high": None}] * 3
    assert second[0]["scale"] == pytest.approx(200)
    assert second[0]["low"] < 200 < second[0]["high"]
    assert second[1]["low"] is None
    assert (second[2]["high"] is None, second[2]["scale"]) == (True, None)
    told = f"200 ({second[0]['low']:.0f} to {second[0]['high']:.0f})"
    print_overview(document)
    shown = capsys.readouterr().out
    assert told in shown
    assert f"over {round(second[2]['low'], -1):,.0f}" in shown
    assert f"| growing | 0 to 1 | 88.8 | {told} |" in markdown(document)
    print_overview(overview(sweep, records(sweep)))
    assert "gradient" not in capsys.readouterr().out


def test_policies_are_compared_with_the_baseline_by_seed(capsys):
    sweep = made_sweep()
    document = overview(sweep, records(sweep), margin=1.0)
    first, second = document["policies"]
    assert (document["baseline"], first["difference"]) == ("decaying", None)
    differences = np.subtract(ACCURACIES["growing"], ACCURACIES["decaying"])
    test = stats.ttest_1samp(differences, 0.0)
    shown = second["difference"]
    low, high = test.confidence_interval()
    assert [shown[name] for name in ("n", "mean", "low", "high", "p")] == pytest.approx(
        [3, differences.mean(), low, high, test.pvalue]
    )
    assert shown["verdict"] == "equivalent"
    print_overview(document)
    half = (high - low) / 2
    assert f"{differences.mean():.2f} ± {half:.2f}" in capsys.readouterr().out
    page = markdown(document).splitlines()
    assert "| less decaying, margin 1 % | difference, % | n | p (Holm) | verdict | new seeds |" in page
    assert (shown["new_seeds"], advice(document)) == (None, "")
    assert overview(sweep, records(sweep), baseline="growing")["policies"][1]["difference"] is None
    with pytest.raises(ValueError, match="baseline must be one of 'decaying', 'growing', but got 'other'"):
        overview(sweep, records(sweep), baseline="other")


def test_without_a_margin_no_difference_found_asks_for_one_and_gives_no_number_of_seeds(capsys):
    sweep = made_sweep()
    document = overview(sweep, records(sweep))
    shown = document["policies"][1]["difference"]
    assert (shown["verdict"], shown["new_seeds"]) == ("no difference found", None)
    print_overview(document)
    shown = capsys.readouterr().out
    assert "name the difference that does not matter (--margin)" in shown
    for told in (shown, markdown(document)):
        assert "no difference found" in told
        assert "new seeds" not in told


def test_with_a_margin_that_leaves_it_open_new_seeds_are_planned_once_to_be_judged_alone(capsys):
    sweep = made_sweep()
    document = overview(sweep, records(sweep), margin=0.1)
    shown = document["policies"][1]["difference"]
    deviation = upper_deviation(np.subtract(ACCURACIES["growing"], ACCURACIES["decaying"]).tolist())
    assert (shown["verdict"], shown["new_seeds"]) == ("not enough runs", pairs_for_power(deviation, 0.1))
    assert f"| not enough runs | {shown['new_seeds']} |" in markdown(document)
    print_overview(document)
    told = capsys.readouterr().out
    assert re.search(rf"not enough runs +{shown['new_seeds']}\n", told)
    assert "judged together with the old ones a verdict is wrong in up to 10 % of studies" in told


def test_a_claim_has_the_power_of_its_runs_at_the_papers_settings_alone(capsys):
    claim = Claim("T1", "decaying", "test_accuracy", 90.4, tolerance=0.5, deviation=0.2)
    sweep = made_sweep(claim, Claim("T1", "growing", "test_accuracy", 90.4, tolerance=0.5))
    document = overview(sweep, records(sweep))
    assert [judged["power"] for judged in document["claims"]] == [pytest.approx(claim_power(claim, 3), abs=1e-4), None]
    print_overview(document)
    assert f"{claim_power(claim, 3):.0%}" in capsys.readouterr().out
    small = override(sweep, scale=0.5)
    assert [judged["power"] for judged in overview(small, records(small))["claims"]] == [None, None]


def test_equal_accuracies_are_shown_with_the_resolution_of_the_test_set(capsys):
    sweep = made_sweep()
    equal = [
        (spec, record._replace(rows=[record.rows[0] | {"test_accuracy": 97.5}])) for spec, record in records(sweep)
    ]
    document = overview(sweep, equal)
    first, second = document["policies"]
    assert document["accuracy_resolution"] == pytest.approx(100 / 360)
    for found, mean in ((first["test_accuracy"], 97.5), (second["difference"], 0.0)):
        assert (found["low"], found["high"]) == pytest.approx((mean - 100 / 360, mean + 100 / 360))
    print_overview(document)
    shown = capsys.readouterr().out
    assert "97.50 ± 0.28" in shown
    assert "all equal ± one example of the test set (0.28 %)" in shown


def test_a_diverged_run_leaves_its_policy_without_a_verdict():
    sweep = made_sweep()
    pairs = records(sweep)
    pairs[-1] = (pairs[-1][0], pairs[-1][1]._replace(status="diverged"))
    difference = overview(sweep, pairs, margin=5.0)["policies"][1]["difference"]
    assert (difference["verdict"], difference["mean"], difference["p"]) == ("not enough runs", None, None)


def test_the_updates_to_a_target_keep_the_runs_that_do_not_get_there(capsys):
    sweep = made_sweep()
    runs = {"decaying": [(50, 95.0), (30, 95.0), (40, 95.0)], "growing": [(20, 95.0), (90, 80.0), (90, 80.0)]}
    pairs = [
        (spec, Record(spec.key, "finished", "", [made_row(1, 10.0), made_row(2, accuracy) | {"updates": updates}]))
        for spec in sweep.runs
        for updates, accuracy in [runs[spec.label][spec.seed]]
    ]
    document = overview(sweep, pairs, target=90.0)
    first, second = (policy["updates_to_target"] for policy in document["policies"])
    assert (first["median"], first["reached"], first["n"]) == (40, 3, 3)
    assert (second["median"], second["reached"], second["n"]) == (None, 1, 3)
    print_overview(document)
    assert "updates to 90 %" in capsys.readouterr().out
    assert overview(sweep, pairs)["policies"][0]["updates_to_target"] is None
