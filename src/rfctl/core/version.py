"""The version of rfctl, read by the build and printed by `rfctl --version`."""

__version__ = "0.1.0"
