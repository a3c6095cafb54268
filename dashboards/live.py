"""Live: a sweep as it runs."""

import math
from datetime import timedelta

import streamlit as st

from dashboards.reading import choose_group, groups, sweep_names
from dashboards.showing import show_chart
from lrbs_core import figures
from lrbs_core.results import progress, seconds_to_go

SECONDS_BETWEEN_LOOKS = 5

st.title("Live")
sweep = st.selectbox("Sweep", sweep_names())


@st.fragment(run_every=SECONDS_BETWEEN_LOOKS)
def look() -> None:
    group = choose_group(sweep, groups(sweep))
    table = progress(group.pairs)
    ended, running = (table["status"].isin(names) for names in (("finished", "diverged", "stopped"), ("running",)))
    failed, to_go = int((table["status"] == "failed").sum()), seconds_to_go(group.pairs, group.runs)

    columns = st.columns(4)
    columns[0].metric("Runs at their end", f"{ended.sum()} of {group.runs}")
    columns[1].metric("Running", int(running.sum()))
    columns[2].metric("Failed", failed)
    columns[3].metric("Time to go", "–" if math.isnan(to_go) else f"about {timedelta(seconds=round(to_go))}")
    st.progress(float(table["done"].sum()) / group.runs)

    labels = list(dict.fromkeys(table["policy"]))
    begun = [pair for pair in group.pairs if pair[1].rows]
    if begun:
        show_chart(figures.accuracy_chart(figures.accuracy_numbers(begun), labels))
        st.caption("Test accuracy: mean and 95 % band over the seeds that have come so far.")
    shown = table.assign(order=running.map({True: 0, False: 1})).sort_values(["order", "policy", "seed"])
    st.dataframe(
        shown.drop(columns="order"),
        hide_index=True,
        column_config={
            "done": st.column_config.ProgressColumn(format="percent"),
            "epoch": st.column_config.NumberColumn(format="%.4g"),
            "epochs": st.column_config.NumberColumn("of epochs", format="%.4g"),
            "test_accuracy": st.column_config.NumberColumn("test accuracy (%)", format="%.2f"),
        },
    )


look()
