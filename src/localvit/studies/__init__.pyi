from .claims import Claim, Price
from .config import Resources, StudyConfig, Sweep
from .record import StudyError, StudyRecord
from .statistics.findings import StudySummary
from .statistics.summary import summarize
from .study import report_studies, run_study

__all__ = [
    "Claim",
    "Price",
    "Resources",
    "StudyConfig",
    "StudyError",
    "StudyRecord",
    "StudySummary",
    "Sweep",
    "report_studies",
    "run_study",
    "summarize",
]
