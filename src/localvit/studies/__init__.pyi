from .config import Claim, Resources, StudyConfig
from .record import StudyError, StudyRecord
from .reporting.statistics import StudySummary, summarize
from .study import report_studies, run_study

__all__ = [
    "Claim",
    "Resources",
    "StudyConfig",
    "StudyError",
    "StudyRecord",
    "StudySummary",
    "report_studies",
    "run_study",
    "summarize",
]
