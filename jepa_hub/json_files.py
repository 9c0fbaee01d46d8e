"""JSON files of models, which may come from anywhere: an object, or an error that says what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class JSONFileError(OSError, ValueError):
    """A file that should hold a JSON object holds something else."""


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
        JSONFileError: it is not JSON (or nested beyond reason), or another kind of value.
        OSError: it cannot be read.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or brackets without end
        raise JSONFileError(f"{path} is not readable JSON ({error}); download or write it again") from error
    if not isinstance(value, dict):
        raise JSONFileError(f"{path} holds {type(value).__name__}, not a JSON object")
    return value
