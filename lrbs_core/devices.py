"""Devices: what a run computes on, and what its seconds belong to."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import torch

from lrbs_core.specs import Machine

__all__ = ["describe", "device_of", "gpus_here", "require_device_name"]


def device_of(machine: Machine) -> torch.device:
    """The device that the machine's setting names. Raises ValueError for CUDA where there is none."""
    require_device_name(machine.device)
    name = ("cuda" if torch.cuda.is_available() else "cpu") if machine.device == "auto" else machine.device
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {name} needs a CUDA GPU, but torch finds none")
    return torch.device(name)


def require_device_name(name: str) -> None:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:NUMBER, but got {name!r}")


def gpus_here() -> int:
    """1 where torch finds a CUDA GPU, else 0: what a run asks of a cluster unless told otherwise."""
    return int(torch.cuda.is_available())


def describe(machine: Machine) -> str:
    """The hardware and torch that a run's seconds belong to."""
    device = device_of(machine)
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:
        hardware = f"{_processor()}, {machine.threads} thread(s)"
    names = {"bf16": "bf16", "compile": "compile", "measure_noise": "measuring noise"}
    settings = "".join(f", {told}" for name, told in names.items() if getattr(machine, name))
    return f"{hardware}, torch {torch.__version__}{settings}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
