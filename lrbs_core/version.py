"""The version of lrbs, read by the build and by `lrbs --version`."""

__version__ = "0.1.0"
