"""Paper: each claim of a paper beside what was measured."""

from dataclasses import replace

import streamlit as st

from dashboards.reading import choose_group, client, groups, sweep_files
from dashboards.showing import show_chart, show_claims, show_policies
from lrbs_core import figures, store
from lrbs_core.html import findings
from lrbs_core.report import overview

st.title("Paper")
files = sweep_files()
if not files:
    st.info("No sweep file here: start the dashboard where `sweeps/` is, or with `lrbs dashboard --sweeps DIR`.")
    st.stop()
run = set(store.sweeps(client()))
name = st.selectbox("Sweep", sorted(files, key=lambda name: (name not in run, name)))
sweep, pairs = files[name], []
st.text(f"{sweep.source}.")
if name in run:
    group = choose_group(name, groups(name))
    begun = {spec.label for spec, _ in group.pairs}
    # A claim on a policy that has not begun is on one that the store does not know.
    missing = [spec for spec in sweep.runs if spec.label not in begun]
    # The store has the runs as they began, but the first of the file is the baseline.
    labels = list(dict.fromkeys([spec.label for spec in sweep.runs] + [spec.label for spec, _ in group.pairs]))
    pairs = sorted(group.pairs, key=lambda pair: labels.index(pair[0].label))
    runs = sorted([spec for spec, _ in pairs] + missing, key=lambda spec: labels.index(spec.label))
    sweep = replace(sweep, runs=tuple(runs))
    if group.overrides:
        st.warning("These runs were not made at the paper's settings: a number of their own stands beside the paper's.")
else:
    st.info(f"Planned only, no run in the store yet: `lrbs run sweeps/{name}.py`")

document = overview(sweep, pairs)
for sentence in findings(document) if pairs else ():
    st.text(sentence)
st.subheader("Claims")
if document["claims"]:
    show_claims(document)
else:
    st.text("The sweep states no claim.")
st.subheader("Policies")
show_policies(document)
if any(record.status == "finished" for _, record in pairs):
    show_chart(
        figures.accuracy_chart(figures.accuracy_numbers(pairs), list(dict.fromkeys(s.label for s in sweep.runs)))
    )
st.subheader("As planned")
show_chart(figures.settings_chart(figures.settings_numbers(sweep.runs)))
