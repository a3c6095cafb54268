"""A sweep under random kills: what is lost, what is doubled, which weights differ from the undisturbed run's.

A small sweep runs through Ray and tells a real MLflow server. At random moments one of its processes is killed
(SIGKILL): a run's worker, the driver, Ray's raylet, or the MLflow server, which is started again. Whenever the driver
is gone, the same command is given again; a sweep that is done makes room for a fresh one, until all kills are made.

    python tests/bench/chaos.py [--kills 30] [--seed 0]
"""

from __future__ import annotations

import argparse
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import psutil
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from made import command, journal_rows, lrbs, unclocked, write_sweep
from servers import POINTS, RUNS, mlflow

from lrbs_core.journal import METRICS

VICTIMS = ("worker", "driver", "raylet", "server")
# Seconds between two kills, and those that a driver has to notice that its cluster is gone.
LONGEST_PAUSE, PATIENCE = 10.0, 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lrbs-chaos-") as scratch:
        print(f"{options.kills} kills, seed {options.seed}")
        Chaos(Path(scratch), options.kills, random.Random(options.seed)).go()


class Chaos:
    """The kills, the sweeps under them, and the undisturbed sweep beside which they are held."""

    def __init__(self, root: Path, kills: int, chance: random.Random) -> None:
        self.root, self.left, self.chance = root, kills, chance
        self.made: Counter[str] = Counter()
        self.launches = 0
        self.started: set[psutil.Process] = set()
        self.server, self.uri = mlflow(f"sqlite:///{root}/mlflow.db", str(root / "artifacts"))

    def go(self) -> None:
        calm = self.root / "calm"
        calm.mkdir()
        ran = lrbs("run", write_sweep(calm / "calm.py", epochs=12, seeds=3), "--offline", cwd=calm)
        assert ran.returncode == 0, ran.stderr
        found: Counter[str] = Counter()
        with self.server:
            while self.left:
                name = f"round{found['sweeps'] + 1}"
                folder = self.root / name
                folder.mkdir()
                self.disturb(folder, write_sweep(folder / f"{name}.py", epochs=12, seeds=3))
                found += Counter({"sweeps": 1}) + self.damage(calm, folder, name)
                made = ", ".join(f"{count} {victim}" for victim, count in sorted(self.made.items()))
                print(f"sweep {found['sweeps']} done after {sum(self.made.values())} kills ({made})", flush=True)
        print(f"kills {sum(self.made.values())}, launches {self.launches}, sweeps {found['sweeps']}")
        for name in ("runs", "points", "lost", "doubled", "weights that differ"):
            print(f"{name}: {found[name]}")

    def disturb(self, folder: Path, sweep: Path) -> None:
        """Has the sweep run to its end, whatever happens to it meanwhile."""
        arguments = ["run", sweep, "--tracking-uri", self.uri, "--checkpoint-seconds", "0.3"]
        while True:
            self.launches += 1
            with (folder / "driver.log").open("ab") as log:
                driver = subprocess.Popen(
                    command(*arguments), cwd=folder, stdout=log, stderr=log, start_new_session=True
                )
            while driver.poll() is None:
                self.wait(driver, self.chance.uniform(0, LONGEST_PAUSE))
                if self.left and driver.poll() is None:
                    self.kill(driver, self.chance.choice(VICTIMS))
            if driver.returncode == 0:
                break
        for process in self.started:  # workers and servers of Ray's that outlive a killed driver for a while
            if process.is_running():
                process.kill()
        self.started.clear()
        said = lrbs("sync", "lrbs-runs", "--tracking-uri", self.uri, cwd=folder)
        assert said.returncode == 0, said.stderr

    def wait(self, driver: subprocess.Popen[bytes], seconds: float) -> None:
        try:
            driver.wait(seconds)
        except subprocess.TimeoutExpired:
            return

    def kill(self, driver: subprocess.Popen[bytes], victim: str) -> None:
        """Kills the victim, if there is one at this moment."""
        if victim == "server":
            self.server.end(signal.SIGKILL)
            self.wait(driver, self.chance.uniform(0, 3))
            self.server.start()
        else:
            members = family(driver.pid)
            self.started |= set(members)
            found = [process for process in members if role(process, driver) == victim]
            if not found:
                return
            self.chance.choice(found).kill()
            if victim == "raylet":
                self.wait(driver, PATIENCE)
                assert driver.poll() is not None, "the driver hangs without its raylet"
            elif victim == "driver":
                driver.wait()
        self.left -= 1
        self.made[victim] += 1

    def damage(self, calm: Path, folder: Path, sweep: str) -> Counter[str]:
        """What the store and the folder of a sweep lack or have twice, beside its journals and the calm sweep's."""
        store = sqlite3.connect(self.root / "mlflow.db")
        points = Counter(store.execute(POINTS.format(sweep)).fetchall())
        kept = Counter(key for stage, _, key in store.execute(RUNS.format(sweep)) if key and stage == "active")
        rows, expected = journal_rows(folder), journal_rows(calm)
        told = {
            (key, name, int(row["row"]), int(row["time_ms"]), row[name])
            for key, lines in rows.items() for row in lines for name in METRICS
        }  # fmt: skip
        lost = len(told - points.keys())
        for key, lines in expected.items():
            came = unclocked(rows[key])
            lost += len(METRICS) * sum(row not in came for row in unclocked(lines))
        doubled = points.total() - len(told & points.keys()) + kept.total() - len(kept)
        differ = sum(not same_weights(at, folder / "lrbs-runs" / sweep / at.parent.name / at.name)
                     for at in calm.rglob("checkpoint.pt"))  # fmt: skip
        return Counter({"runs": len(kept), "points": sum(map(len, expected.values())) * len(METRICS), "lost": lost,
                        "doubled": doubled, "weights that differ": differ})  # fmt: skip


def family(pid: int) -> list[psutil.Process]:
    """The process and all that it started."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def role(process: psutil.Process, driver: subprocess.Popen[bytes]) -> str:
    """What a process of the sweep is there for."""
    if process.pid == driver.pid:
        return "driver"
    try:
        name = next(iter(process.cmdline()), "")
    except psutil.Error:
        return ""
    return "worker" if name.startswith("ray::ImplicitFunc") else "raylet" if name.endswith("/raylet") else ""


def same_weights(one: Path, other: Path) -> bool:
    first, second = (torch.load(path, weights_only=True)["model"] for path in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


if __name__ == "__main__":
    main()
