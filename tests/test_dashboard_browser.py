"""The dashboard end to end: a real sweep, a real MLflow server, and a person's clicks in a real browser."""

import os
import shutil
from pathlib import Path

import pytest
from made import command, document, lrbs, write_sweep
from mlflow import MlflowClient
from scipy import stats
from servers import Server, answers, free_port, mlflow

sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
    pytest.mark.xdist_group("browser"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("browser")
    (path / "sweeps").mkdir()
    write_sweep(path / "sweeps" / "tiny.py", seeds=3)
    return path


@pytest.fixture(scope="module")
def store(folder):
    """The address of an MLflow server that holds a sweep."""
    server, uri = mlflow(f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts"))
    with server:
        ran = lrbs("run", "sweeps/tiny.py", "--serial", "--tracking-uri", uri, cwd=folder)
        assert ran.returncode == 0, ran.stderr
        yield uri


@pytest.fixture(scope="module")
def dashboard(folder, store):
    port = free_port()
    start = command("dashboard", "--tracking-uri", store, "--sweeps", folder / "sweeps", "--port", port)
    uri = f"http://127.0.0.1:{port}"
    with Server(start, answers(f"{uri}/_stcore/health"), env=os.environ | {"HOME": str(folder)}):
        yield uri


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(params=[1280, 390])
def page(request, browser, dashboard):
    """The dashboard as it opens, at the width of a laptop and of a telephone; errors in the console fail the test."""
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    page.set_default_timeout(60_000)
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(dashboard)
    page.get_by_role("heading", name="Live", exact=True).wait_for()
    yield page
    assert page.get_by_test_id("stException").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "wider than the screen"
    assert errors == []
    page.close()


def turn_to(page, name: str) -> None:
    narrow = page.viewport_size["width"] < 500
    if narrow:
        page.get_by_test_id("stExpandSidebarButton").click()
    page.get_by_role("link", name=name, exact=True).click()
    page.get_by_role("heading", name=name, exact=True).wait_for()
    if narrow:
        page.get_by_test_id("stSidebarCollapseButton").get_by_role("button").click()


def shown_in_tables(page, text: str) -> None:
    page.get_by_role("cell", name=text, exact=True).first.wait_for()


def spread(measured: dict, digits: int = 2) -> str:
    half = (measured["high"] - measured["low"]) / 2
    return f"{measured['mean']:.{digits}f} ± {half:.{digits}f}"


def test_report_and_pages_give_what_the_store_holds(folder, store, page):
    # By hand from MLflow's own points, in no way through lrbs.
    client = MlflowClient(store)
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id], "tags.`lrbs.key` != ''")
    finals: dict[str, dict[str, float]] = {"decaying": {}, "growing": {}}
    for run in runs:
        points = client.get_metric_history(run.info.run_id, "test_accuracy")
        last = max(points, key=lambda point: point.step).value
        finals[run.data.tags["lrbs.policy"]][run.data.tags["lrbs.seed"]] = last
    decaying, growing = ([values[seed] for seed in sorted(values)] for values in finals.values())
    half = stats.sem(growing) * stats.t.ppf(0.975, 2)
    paired = stats.ttest_rel(growing, decaying)

    report = document(lrbs("report", "sweeps/tiny.py", "--json", "--tracking-uri", store, cwd=folder))
    policy = report["policies"][1]
    assert policy["test_accuracy"]["mean"] == pytest.approx(sum(growing) / 3)
    assert policy["test_accuracy"]["high"] == pytest.approx(sum(growing) / 3 + half)
    assert policy["difference"]["p"] == pytest.approx(paired.pvalue)
    interval = paired.confidence_interval()
    assert [policy["difference"][end] for end in ("low", "high")] == pytest.approx([interval.low, interval.high])

    turn_to(page, "Compare")
    for each in report["policies"]:
        shown_in_tables(page, spread(each["test_accuracy"]))
    shown_in_tables(page, spread(policy["difference"]))
    for axis in ("updates", "training time (s)", "epochs"):
        page.get_by_role("combobox", name="x-axis").click()
        page.get_by_role("option", name=axis, exact=True).click()
        page.locator(".vega-embed").first.get_by_text(axis, exact=True).wait_for()

    turn_to(page, "Paper")
    claim = report["claims"][0]
    shown_in_tables(page, claim["verdict"])
    shown_in_tables(page, f"{claim['measured']['mean']:g}")


def test_live_and_plan_open(page):
    page.get_by_text("6 of 6", exact=True).wait_for()
    turn_to(page, "Plan")
    page.get_by_role("cell", name="78,200", exact=True).wait_for()  # 200 epochs of 391 updates
    page.get_by_role("slider", name="Scale lr and batch size by").press("ArrowRight")
    page.get_by_text("policy.scale(2)").wait_for()


def test_nobody_else_is_answered(dashboard):
    """It listens on the loopback address only."""
    port = int(dashboard.rpartition(":")[2])
    assert Path("/proc/net/tcp").exists(), "needs Linux"
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if line.split()[3] == "0A"]
    assert [at for at in listening if at.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]
