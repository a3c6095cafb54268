"""The dashboard: pages that show what is in the store, in a browser. `lrbs dashboard` starts it."""

# The environment variable that names the folder of sweep files.
SWEEPS = "LRBS_SWEEPS"
