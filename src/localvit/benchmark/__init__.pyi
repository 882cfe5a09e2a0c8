from .comparison import contestant_memory, measure, run, run_each
from .contestant import PEERS, Contestant, Stepper
from .page import Section, write_page
from .rate import machine_rate
from .report import sections, write_report
from .result import BenchmarkResult, Measurement, SettingResult, Spread, memory_ratio, provenance, ratio
from .setting import Setting

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
