"""Shared by the tests of benchmarks."""

import importlib

import pytest


@pytest.fixture(autouse=True)
def small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own rate is taken of matrices that are multiplied at once."""
    # The package has a function of the same name.
    module = importlib.import_module("localvit.benchmark.machine_rate")
    monkeypatch.setitem(module._SIDES, "cpu", 256)
