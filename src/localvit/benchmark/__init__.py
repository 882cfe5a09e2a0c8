"""How fast models run on this machine, beside each other, and how much memory they take.

Shares its way of measuring with the studies, :mod:`localvit.benchmark.measurement`.
"""

from localvit.benchmark.contestant import PEERS, Contestant, Stepper
from localvit.benchmark.machine_rate import machine_rate
from localvit.benchmark.measure import measure, run, run_each
from localvit.benchmark.memory import contestant_memory
from localvit.benchmark.page import Section, write_page
from localvit.benchmark.provenance import provenance
from localvit.benchmark.report import sections, write_report
from localvit.benchmark.result import BenchmarkResult, Measurement, SettingResult, Spread, memory_ratio, ratio
from localvit.benchmark.setting import Setting

__all__ = [
    "PEERS",
    "BenchmarkResult",
    "Contestant",
    "Measurement",
    "Section",
    "Setting",
    "SettingResult",
    "Spread",
    "Stepper",
    "contestant_memory",
    "machine_rate",
    "measure",
    "memory_ratio",
    "provenance",
    "ratio",
    "run",
    "run_each",
    "sections",
    "write_page",
    "write_report",
]
