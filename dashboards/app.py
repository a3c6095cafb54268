"""The frame of the dashboard: its pages, and which store they read."""

from pathlib import Path

import streamlit as st

from dashboards.reading import client
from dashboards.showing import plain
from lrbs_core.store import without_password

st.set_page_config(page_title="lrbs", layout="wide")
pages = [
    st.Page(Path(__file__).with_name(f"{name}.py"), title=name.capitalize(), default=name == "live")
    for name in ("live", "compare", "plan", "paper")
]
page = st.navigation(pages, position="top")
st.caption(f"Store: {plain(without_password(client().tracking_uri))}")
page.run()
