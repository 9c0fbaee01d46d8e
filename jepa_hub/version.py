"""The version of the installed package."""

from __future__ import annotations

from importlib import metadata

try:
    __version__ = metadata.version("jepa-hub")
except metadata.PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0.1.0"
