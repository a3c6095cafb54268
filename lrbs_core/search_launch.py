"""The launch of a search in MLflow: found again by the search's key, so that one that goes on has one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import RunTag

from lrbs_core.store import first_line, without_password
from lrbs_core.tracking import experiment_of, only

__all__ = ["find_launch", "tell_launch"]

SEARCH_TAG = "lrbs.search"


def find_launch(client: MlflowClient, settings: dict[str, Any]) -> str:
    """The id of the launch of a search of these settings (`Design.settings`), made now if it is new, with them as tags.

    Raises ValueError in one line when the store does not take it.
    """
    sweep, key = settings["sweep"], settings["search"]
    tags = {SEARCH_TAG: key, "lrbs.sweep": sweep, "lrbs.search.objectives": ",".join(settings["objectives"])}
    named = ("seeds", "rungs", "space", "judged_on", "validation")
    tags |= {f"lrbs.search.{name}": str(settings[name]) for name in named}
    tags |= {f"lrbs.search.sampler.{name}": str(value) for name, value in settings["sampler"].items()}
    name = f"search {settings['sampler']['name']} {datetime.now(UTC):%Y-%m-%d %H:%M}"
    try:
        experiment = experiment_of(client, sweep)
        launch = only(
            client,
            lambda: list(client.search_runs([experiment], f"tags.`{SEARCH_TAG}` = '{key}'", order_by=["run_id"])),
            lambda: client.create_run(experiment, tags=tags, run_name=name),
        )
        return str(launch.info.run_id)
    except Exception as error:
        raise _not_told(error) from None


def tell_launch(client: MlflowClient, launch: str, document: dict[str, Any], texts: dict[str, str]) -> None:
    """Puts the best so far on the launch as tags, and artifacts by name. Raises ValueError as `find_launch` does."""
    tags = {"lrbs.search.trials": f"{len(document['trials'])}"}
    if document["best"]:
        tags["lrbs.search.best"] = "; ".join(best["label"] for best in document["best"])
        best = document["trials"][document["best"][0]["trial"]]
        told = dict.fromkeys([*document["objectives"], "test_accuracy"])  # the last one for the report, if not sought
        tags |= {f"lrbs.search.best.{name}": f"{best[name]['mean']:.6g}" for name in told}
    try:
        client.log_batch(launch, tags=[RunTag(name, value[:4000]) for name, value in tags.items()])
        for name, text in texts.items():
            client.log_text(launch, text, name)
    except Exception as error:
        raise _not_told(error) from None


def _not_told(error: Exception) -> ValueError:
    reason = without_password(first_line(error))
    return ValueError(f"tracking store not told of the search ({reason}): the same command tries again")
