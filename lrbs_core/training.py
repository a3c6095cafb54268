"""Training: one spec in, rows out. No logger, no callback; whoever iterates decides what becomes of a row."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lrbs_core import models, optimizers, preemption
from lrbs_core.checkpoints import saved, take_up
from lrbs_core.data import Dataset, Stream, load
from lrbs_core.devices import device_of, require_device_name
from lrbs_core.draws import APART, use_draws
from lrbs_core.journal import MEASURED, NOISE_SUMS, VALIDATED, Row, Status, write_whole
from lrbs_core.noise_meter import UNIT, NoiseMeter, held_parts
from lrbs_core.planning import Update, micro_batch_limit, micro_batches
from lrbs_core.schedules import exactly
from lrbs_core.specs import MICRO_BATCH, Machine, RunSpec
from lrbs_core.streaming import Folder, FolderStream, scan

__all__ = ["prepare", "train"]

# Reading the loss waits for a GPU to catch up, so it is looked at once in so many updates.
UPDATES_A_LOOK = 16


def prepare(specs: Iterable[RunSpec], machine: Machine) -> None:
    """Raises ValueError, naming the run, for what only data and network can tell; decodes once what is held in memory.

    Called before a sweep starts, so that bad input is known before the first run rather than in the last. It needs no
    GPU: the process that starts a sweep on a cluster may have none.
    """
    require_device_name(machine.device)
    checked = set()
    for spec in specs:
        images = (spec.augmentation, spec.normalization, spec.image_size)
        what = (spec.dataset, spec.examples, spec.model, spec.ghost_size, images, spec.validation)
        if what in checked:
            continue
        checked.add(what)
        data = _data(spec, machine, torch.device("cpu"))
        with _naming(spec):
            _check_examples(spec, data)
            _stream(spec, data, machine, torch.device("cpu"))
            with torch.device("meta"):
                models.build(spec.model, data.classes, data.channels, data.image_size, spec.ghost_size)
            if machine.micro_batch is not None:
                micro_batches(1, machine.micro_batch, spec.ghost_size)


@contextmanager
def _naming(spec: RunSpec) -> Iterator[None]:
    """Puts the run's label before a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"run {spec.label!r}: {error}") from None


def _data(spec: RunSpec, machine: Machine, device: torch.device) -> Dataset | Folder:
    if spec.image_size is not None:
        return scan(spec.dataset, machine.data_dir, spec.image_size)
    return load(spec.dataset, machine.data_dir, device)


def _stream(
    spec: RunSpec, data: Dataset | Folder, machine: Machine, device: torch.device, held: bool = False
) -> Stream | FolderStream:
    """The training examples end to end; `held`: those to measure noise by, drawn with return."""
    if isinstance(data, Folder):
        workers = min(machine.workers, 1) if held else machine.workers
        return FolderStream(data, spec.seed, device, workers, spec.validation_examples, held)
    return Stream(data, spec.seed, spec.augmentation, spec.normalization, spec.validation_examples, held)


def _check_examples(spec: RunSpec, data: Dataset | Folder) -> None:
    if len(data.train_labels) != spec.examples:
        raise ValueError(
            f"{spec.dataset} must have the {spec.examples} training examples of the plan, "
            f"but got {len(data.train_labels)}"
        )


def train(
    spec: RunSpec,
    checkpoint: Path | None = None,
    journalled: Sequence[Row] = (),
    *,
    machine: Machine,
    data: Dataset | Folder | None = None,
) -> Generator[Row, None, Status]:
    """Yields a row an evaluation (`journal.METRICS`) and returns "finished", or "diverged" when the loss is not finite.

    Iterates the spec's own walk; the clock stands still outside the updates. With `checkpoint`, a file: goes on from
    it if it is there (yielding again the rows made before it) and writes it as the machine says and at the end. Rows
    already in `journalled` are handed out as they stand there, so that a resumed run never tells a row twice
    differently. `data` stands in for the spec's dataset. On a CPU, equal specs give equal bits, resumed or not.
    Raises ValueError for a spec that does not fit its data or network, or a checkpoint of another run or precision,
    OSError where a checkpoint cannot be written, and Preempted, after a checkpoint, once notice is given.
    """
    device = device_of(machine)
    torch.set_num_threads(machine.threads)
    if data is None:
        data = _data(spec, machine, device)
    with _naming(spec):
        run = _Run(spec, data, machine, device)
    if checkpoint is not None and checkpoint.exists():
        run.restore(checkpoint)
    yield from run.rows

    saved, diverged = time.monotonic(), False
    updates = chain(islice(spec.walk(), run.updates, None), [None])
    with closing(run.batches()) as batches, closing(run.held_batches()) as held, preemption.awaited():
        for update, following in pairwise(updates):
            assert update is not None
            run.take(update, batches, held)
            due = run.row_is_due(following)
            told = preemption.given.is_set()
            save = checkpoint is not None and (
                following is None or told or time.monotonic() - saved >= machine.checkpoint_seconds
            )
            looked = due or update.number % UPDATES_A_LOOK == 0
            # The look also waits for a GPU's queue to end, within the clock: before all that would wait outside it.
            # One that is there for a checkpoint decides nothing: where a run ends must not hang on when it was saved.
            finite = not (looked or save) or run.loss_is_finite()
            diverged = looked and not finite
            if due or diverged:
                row = run.make_row(update, following, journalled)
                # The test loss tells of an update that spoilt the weights after its own loss was taken.
                diverged = diverged or not (math.isfinite(row["train_loss"]) and math.isfinite(row["test_loss"]))
                yield row
            if diverged:
                break
            if save:
                assert checkpoint is not None
                write_whole(checkpoint, run.state())
                saved = time.monotonic()
            if told and following is not None:
                raise preemption.Preempted
    return "diverged" if diverged else "finished"


class _Run:
    """All that the next update depends on, and how it is kept in a checkpoint."""

    def __init__(self, spec: RunSpec, data: Dataset | Folder, machine: Machine, device: torch.device) -> None:
        _check_examples(spec, data)
        self.spec, self.data, self.device, self.bf16 = spec, data, device, machine.bf16
        self.begun_in_bf16 = machine.bf16
        self.limit = micro_batch_limit(machine.micro_batch, MICRO_BATCH[device.type], spec.ghost_size)
        self.stream = _stream(spec, data, machine, device)
        torch.manual_seed(spec.seed)
        model = models.build(spec.model, data.classes, data.channels, data.image_size, spec.ghost_size)
        self.model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.draws = use_draws(self.model, spec.seed, device)
        self.network: nn.Module = torch.compile(self.model) if machine.compile else self.model  # type: ignore[assignment]
        self.optimizer = optimizers.build(
            spec.optimizer,
            self.model,
            spec.weight_decay,
            trust_coefficient=spec.trust_coefficient,
            decay_batch_norm=spec.decay_batch_norm,
        )
        self.meter = NoiseMeter(self.model.parameters()) if machine.measure_noise else None
        self.held = _stream(spec, data, machine, device, held=True)
        # How many examples at once are measured by.
        self.unit = spec.ghost_size or min(UNIT, spec.policy(0.0).batch_size)
        self.rows: list[Row] = []
        self.updates, self.examples, self.seconds = 0, 0, 0.0
        # Since the last row: the sum of losses and the number of correct answers [2], on the device.
        self.tally = torch.zeros(2, dtype=torch.float64, device=device)

    def requests(self, update: Update) -> Iterator[tuple[int, int]]:
        """The micro-batches of an update, as (start, size) in the stream of examples."""
        start = update.start
        for size in micro_batches(update.size, self.limit, self.spec.ghost_size):
            yield start, size
            start += size

    def held_requests(self, update: Update) -> list[tuple[int, int]]:
        """What noise is measured by at an update, as (start, size) in the stream of examples held for that."""
        return held_parts(update.start, update.size, self.limit, self.unit) if self.meter is not None else []

    def batches(self) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Images and labels of every micro-batch from here to the end of the run; a stream may read ahead along it."""
        return self._along(self.stream, self.requests)

    def held_batches(self) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Those of what noise is measured by."""
        return self._along(self.held, self.held_requests)

    def _along(
        self, stream: Stream | FolderStream, requests: Callable[[Update], Iterable[tuple[int, int]]]
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        updates = islice(self.spec.walk(), self.updates, None)
        return stream.batches(chain.from_iterable(map(requests, updates)))

    def take(
        self, update: Update, batches: Iterator[tuple[Tensor, Tensor]], held: Iterator[tuple[Tensor, Tensor]]
    ) -> None:
        """One update, by as many forward/backward passes as the micro-batch asks for; `batches` stand at its first."""
        began = time.perf_counter()
        optimizers.apply_setting(self.optimizer, update.setting)
        self.optimizer.zero_grad(set_to_none=True)
        for start, size in self.requests(update):
            images, labels = next(batches)
            assert len(labels) == size
            self.draws.at(start, size, update.start)
            logits = self._logits(images)
            loss = functional.cross_entropy(logits, labels, reduction="sum")
            (loss / update.size).backward()  # type: ignore[no-untyped-call]
            self._count(self.tally, logits, loss, labels)
        if self.meter is not None and (parts := self.held_requests(update)):
            self._measure(self.meter, update, parts, held)
        self.optimizer.step()
        self.updates += 1
        self.examples += update.size
        self.seconds += time.perf_counter() - began

    def _measure(
        self, meter: NoiseMeter, update: Update, parts: list[tuple[int, int]], held: Iterator[tuple[Tensor, Tensor]]
    ) -> None:
        """Has the meter see the update's gradients beside those of the parts; leaves everything else as it was.

        The examples' draws are their own, those of the update stay: how much a gradient varies by what an update drops
        does not fall with the batch, and so is no part of the gradient noise scale.
        """
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        for (start, size), (images, labels) in zip(parts, held, strict=False):
            self.draws.at(APART + start, size, update.start)
            meter.part(functional.cross_entropy(self._logits(images), labels), size)
        meter.end()
        for buffer, before in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(before)

    def loss_is_finite(self) -> bool:
        began = time.perf_counter()
        finite = bool(self.tally[0].isfinite())
        self.seconds += time.perf_counter() - began
        return finite

    def row_is_due(self, following: Update | None) -> bool:
        if following is None:
            return True
        due = exactly(self.spec.evaluate_every_epochs, float(self._rows_due() + 1))
        return following.start / self.spec.train_examples >= due

    def _rows_due(self) -> int:
        """Evaluations whose epoch has passed: fewer than rows never, more when one batch passes several."""
        return int(self.rows[-1]["epoch"] / self.spec.evaluate_every_epochs + 1e-9) if self.rows else 0

    def make_row(self, update: Update, following: Update | None, journalled: Sequence[Row]) -> Row:
        spec, number = self.spec, len(self.rows) + 1
        loss, correct = self.tally.tolist()
        before = self.rows[-1] if self.rows else {"examples": 0.0, "train_seconds": 0.0}
        seen = self.examples - before["examples"]
        self.tally.zero_()
        test_loss, test_accuracy = self.evaluate(self.stream.test_batches)
        row: Row = {
            "row": number,
            "time_ms": int(time.time() * 1000),
            "epoch": spec.epochs if following is None else following.start / spec.train_examples,
            "updates": self.updates,
            "examples": self.examples,
            "train_seconds": self.seconds,
            **update.setting._asdict(),
            "noise_scale": spec.noise_scale(update.setting),
            "train_loss": loss / seen,
            "train_accuracy": 100 * correct / seen,
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
            "examples_per_second": seen / (self.seconds - before["train_seconds"]),
        }
        if spec.validation:
            row |= zip(VALIDATED, self.evaluate(self.stream.validation_batches), strict=True)
        if self.meter is not None:
            reading, sums = self.meter.reading()
            row |= zip((*MEASURED, *NOISE_SUMS), (*reading, *sums), strict=True)
        if number <= len(journalled):
            row = journalled[number - 1]
            self.seconds = row["train_seconds"]
        self.rows.append(row)
        return row

    @torch.inference_mode()
    def evaluate(self, of: Callable[[int], Iterator[tuple[Tensor, Tensor]]]) -> tuple[float, float]:
        """Mean loss and accuracy in percent on the batches of a part of the data."""
        total, tally = 0, torch.zeros(2, dtype=torch.float64, device=self.device)
        self.network.eval()
        for images, labels in of(max(self.limit, 256)):
            logits = self._logits(images)
            self._count(tally, logits, functional.cross_entropy(logits, labels, reduction="sum"), labels)
            total += len(labels)
        self.network.train()
        loss, correct = tally.tolist()
        return loss / total, 100 * correct / total

    def _logits(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            logits: Tensor = self.network(images)
        return logits.float()

    @staticmethod
    def _count(tally: Tensor, logits: Tensor, loss: Tensor, labels: Tensor) -> None:
        tally += torch.stack([loss.detach().double(), (logits.argmax(1) == labels).sum().double()])

    def state(self) -> bytes:
        """The checkpoint: weights, optimizer, place in the plan, rows so far. What is drawn hangs on the place."""
        content: dict[str, Any] = {
            "key": self.spec.key,
            "bf16": self.bf16,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "tally": self.tally,
            "noise": None if self.meter is None else self.meter.moments,
            "rows": self.rows,
            "updates": self.updates,
            "examples": self.examples,
            "seconds": self.seconds,
        }
        return saved(content)

    def restore(self, checkpoint: Path) -> None:
        """All as it was at `state`. Raises ValueError for a file of another run or precision, or of none."""
        take_up(checkpoint, self.spec, self._take_up)
        if self.begun_in_bf16 != self.bf16:
            begun, fix = ("with", "give") if self.begun_in_bf16 else ("without", "leave out")
            raise ValueError(
                f"run {self.spec.label!r}: a run must keep to its precision, but was begun {begun} bf16: "
                f"{fix} --bf16, or remove {checkpoint}"
            )

    def _take_up(self, state: dict[str, Any]) -> None:
        self.begun_in_bf16 = state.get("bf16", self.bf16)  # older versions did not note it
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.tally.copy_(state["tally"])
        if self.meter is not None and state.get("noise") is not None:
            self.meter.moments.copy_(state["noise"])
        self.rows, self.updates = state["rows"], state["updates"]
        self.examples, self.seconds = state["examples"], state["seconds"]
