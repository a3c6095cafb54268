"""Progress of a sweep while it runs, read from the journals: what is running, done and left, and the time to go."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from datetime import timedelta

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from lrbs_core.journal import Reader, RunFolder

__all__ = ["Watch"]

ENDED = ("finished", "diverged", "stopped", "failed")


class Watch:
    """While a context manager, shows the runs on standard error: a line an ended run; on a terminal also live bars."""

    def __init__(self, folders: Sequence[RunFolder], poll_seconds: float = 0.5) -> None:
        self.readers = [Reader(folder.journal_path) for folder in folders]
        self.folders = list(folders)
        self.totals = [folder.spec.plan().examples for folder in folders]
        self.unknown = 0
        self.poll_seconds = poll_seconds
        self.console = Console(file=sys.stderr, highlight=False)
        self._told: set[int] = set()
        self._bars: dict[int, TaskID] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="lrbs-progress", daemon=True)

    def __enter__(self) -> Watch:
        for reader in self.readers:
            reader.poll()
        # Runs that had failed before are run again now: only news from here on count.
        self._before = [reader.status_time_ms for reader in self.readers]
        self._began, self._at_start = time.monotonic(), self._seen()
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"))
        self.progress = Progress(*columns, console=self.console, transient=True)
        self._all = self.progress.add_task("all runs", total=sum(self.totals), state="starting")
        if self.console.is_terminal:
            self.progress.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._show()
        if self.console.is_terminal:
            self.progress.stop()

    def add(self, folder: RunFolder) -> None:
        """One more run; `unknown` counts those that are still to be chosen."""
        reader = Reader(folder.journal_path).poll()
        self._before.append(reader.status_time_ms)
        self._at_start += int(reader.rows[-1]["examples"]) if reader.rows else 0
        self.folders.append(folder)
        self.totals.append(folder.spec.plan().examples)
        self.readers.append(reader)  # the last, as the thread goes by these
        self.progress.update(self._all, total=sum(self.totals) * (1 + self.unknown / len(self.totals)))

    def _loop(self) -> None:
        while not self._stop.wait(self.poll_seconds):
            self._show()

    def _done(self, number: int) -> int:
        rows = self.readers[number].rows
        return int(rows[-1]["examples"]) if rows else 0

    def _seen(self) -> int:
        return sum(map(self._done, range(len(self.readers))))

    def _show(self) -> None:
        running = 0
        for number, reader in enumerate(self.readers):
            reader.poll()
            if number not in self._told and self._ended(number):
                self._told.add(number)
                self.console.print(self._line(number), markup=False, soft_wrap=True)
            going = reader.status == "running" and number not in self._told
            running += going
            self._show_bar(number, going)
        left = len(self.readers) + self.unknown - len(self._told) - running
        state = f"{len(self._told)} done, {running} running, {left} waiting{self._to_go()}"
        self.progress.update(self._all, completed=self._seen(), state=state)

    def _show_bar(self, number: int, going: bool) -> None:
        if not going:
            if number in self._bars:
                self.progress.remove_task(self._bars.pop(number))
            return
        spec, rows = self.folders[number].spec, self.readers[number].rows
        if number not in self._bars:
            name = escape(f"{spec.label} seed={spec.seed}")
            self._bars[number] = self.progress.add_task(name, total=self.totals[number], state="")
        state = (
            f"epoch {rows[-1]['epoch']:g} of {spec.epochs:g}, {rows[-1][spec.judged_by]:.1f} %" if rows else "started"
        )
        self.progress.update(self._bars[number], completed=self._done(number), state=state)

    def _ended(self, number: int) -> bool:
        reader = self.readers[number]
        return reader.status in ENDED and reader.status_time_ms > self._before[number]

    def _to_go(self) -> str:
        done, elapsed = self._seen() - self._at_start, time.monotonic() - self._began
        left = sum(
            self.totals[number] - self._done(number) for number in range(len(self.readers)) if number not in self._told
        ) + (self.unknown * sum(self.totals) / len(self.totals) if self.totals else 0)
        return f", about {timedelta(seconds=round(elapsed * left / done))} to go" if done > 0 and left > 0 else ""

    def _line(self, number: int) -> str:
        reader, spec = self.readers[number], self.folders[number].spec
        text = f"[{len(self._told)}/{len(self.readers) + self.unknown}] {spec.label} seed={spec.seed}: {reader.status}"
        if reader.status == "failed":
            return f"{text}: {(reader.note.strip() or '?').splitlines()[-1]}"
        if reader.rows:
            row = reader.rows[-1]
            accuracy, updates, seconds = (row[name] for name in (spec.judged_by, "updates", "train_seconds"))
            text += f", {spec.judged_by.replace('_', ' ')} {accuracy:.2f} %, {updates:.0f} updates in {seconds:.1f} s"
        return text + ("" if self.console.is_terminal else self._to_go())
