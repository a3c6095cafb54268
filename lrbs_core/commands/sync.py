"""`lrbs sync`: journals to MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lrbs_core.commands.launching import say
from lrbs_core.commands.options import Store
from lrbs_core.journal import RunFolder

__all__ = ["sync"]


def sync(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of journals, such as --out of a run.")],
    tracking_uri: Store = None,
) -> None:
    """Deliver journals to MLflow: of offline runs, or what a store that was away has missed."""
    if not directory.is_dir():
        raise ValueError(f"a folder of journals must be given, but got {directory}: no such folder")
    folders, unreadable = RunFolder.find(directory)
    for line in unreadable:
        say(f"passed over: {line}")
    if not folders and not unreadable:
        raise ValueError(f"a folder of journals must hold runs (spec.json), but got none in {directory}")
    from lrbs_core import store, tracking

    delivery = tracking.Delivery(store.connect(tracking_uri), folders)
    delivery.deliver()
    if delivery.late:
        delivery.deliver()  # whoever delivered the same runs at this moment may be done
    delivery.close()
    if delivery.late or delivery.error:
        raise ValueError(f"{delivery.late} of {delivery.begun} run(s) could not be delivered: {delivery.error}")
    say(f"{delivery.begun} run(s) delivered")
    if unreadable:
        raise ValueError(f"{len(unreadable)} run(s) cannot be read: remove their folders, or see `lrbs doctor`")
