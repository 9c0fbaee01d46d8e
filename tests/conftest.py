"""Fixtures of the whole suite. The Hub plugin comes first: it sets what huggingface_hub reads at import."""

import os

import pytest

pytest_plugins = ["tests.hub_server", "tests.documents"]

REQUIRE_ALL = os.environ.get("JEPA_HUB_REQUIRE_ALL") == "1"


@pytest.fixture(autouse=True)
def _fresh_notices() -> None:
    """Things said once per process are said once per test."""
    from jepa_hub import notices

    notices._said.clear()
