"""Time and memory of code on this machine: contestants in turns, and processes whose memory is the code's alone."""

from localvit.benchmark.measurement.memory import peak_memory
from localvit.benchmark.measurement.process import ProcessError, in_process
from localvit.benchmark.measurement.turns import Timed, rotated, take_turns

__all__ = ["ProcessError", "Timed", "in_process", "peak_memory", "rotated", "take_turns"]
