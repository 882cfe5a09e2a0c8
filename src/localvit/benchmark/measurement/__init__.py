"""Measures time and memory on this machine: contestants in turns, and memory in new processes."""

from localvit.benchmark.measurement.memory import peak_memory
from localvit.benchmark.measurement.process import ProcessError, in_process
from localvit.benchmark.measurement.turns import Timed, rotated, take_turns

__all__ = ["ProcessError", "Timed", "in_process", "peak_memory", "rotated", "take_turns"]
