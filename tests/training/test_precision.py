"""Whether a run is told that its precision is slow on this processor."""

import os
import platform
import subprocess
import sys

import pytest

from localvit.training import precision
from localvit.training.config import HardwareConfig
from localvit.training.precision import advice


@pytest.fixture
def emulates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bfloat16_is_fast", lambda: False)


@pytest.mark.usefixtures("emulates")
def test_a_processor_that_emulates_bfloat16_is_better_off_with_float32() -> None:
    said = advice(HardwareConfig(accelerator="cpu", precision="bf16-mixed"))
    assert said is not None
    assert "hardware.precision is bf16-mixed" in said
    assert "32-true is faster" in said


@pytest.mark.usefixtures("emulates")
def test_other_precisions_and_devices_are_left_alone() -> None:
    assert advice(HardwareConfig(accelerator="cpu", precision="32-true")) is None
    assert advice(HardwareConfig(accelerator="cuda", precision="bf16-mixed")) is None


def test_a_processor_made_for_bfloat16_gets_no_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bfloat16_is_fast", lambda: True)
    assert advice(HardwareConfig(accelerator="cpu", precision="bf16-mixed")) is None


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="limits the instructions of x86 processors")
def test_the_speed_is_measured() -> None:
    """Without the instructions for bfloat16, as on a processor of before 2020."""
    asked = "from localvit.training.precision import bfloat16_is_fast; print(bfloat16_is_fast())"
    old = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    said = subprocess.run([sys.executable, "-c", asked], env=old, capture_output=True, text=True, check=True).stdout
    assert said.strip() == "False"
