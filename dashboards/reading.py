"""What the pages read: the store's sweeps and runs, kept between refreshes, and the sweep files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import streamlit as st
from mlflow import MlflowClient

from dashboards import SWEEPS
from dashboards.showing import plain
from lrbs_core import store, sweeping
from lrbs_core.store import Group, Known
from lrbs_core.sweeping import Sweep

__all__ = ["choose_group", "client", "groups", "sweep_files", "sweep_names"]


def client() -> MlflowClient:
    """The store of $MLFLOW_TRACKING_URI; one that cannot be reached ends the page with one line."""
    try:
        return _client(os.environ.get("MLFLOW_TRACKING_URI"))
    except ValueError as error:
        st.error(plain(error))
        st.stop()


@st.cache_resource(show_spinner="Opening the store")
def _client(uri: str | None) -> MlflowClient:
    return store.connect(uri)


@st.cache_resource
def _known(uri: str) -> Known:
    return {}


def sweep_names() -> list[str]:
    """The sweeps of the store, the latest first; ends the page where there is none."""
    names = store.sweeps(client())
    if not names:
        st.info("No sweep is in the store yet. `lrbs run SWEEP` starts one, `lrbs sync DIR` delivers offline runs.")
        st.stop()
    return names


def groups(sweep: str) -> list[Group]:
    """The runs of a sweep by their overrides; ends the page where none can be read."""
    found = store.groups(client(), sweep, _known(client().tracking_uri))
    if not found:
        st.info("This sweep has no run yet.")
        st.stop()
    return found


def choose_group(sweep: str, found: Sequence[Group]) -> Group:
    """One of a sweep's groups: asks where there are several."""
    if len(found) == 1:
        return found[0]
    titles = {group.overrides or "as the sweep file has them": group for group in found}
    return titles[st.selectbox(f"Settings of {sweep}", titles)]


def sweep_files() -> dict[str, Sweep]:
    """The sweeps of the folder by name, and no other files."""
    return _load(os.environ.get(SWEEPS, "sweeps"))


@st.cache_data(ttl=30)
def _load(folder: str) -> dict[str, Sweep]:
    sweeps = {}
    for path in sorted(Path(folder).glob("*.py")):
        try:
            sweeps[path.stem] = sweeping.load(path)
        except ValueError as error:
            st.warning(plain(error))
    return sweeps
