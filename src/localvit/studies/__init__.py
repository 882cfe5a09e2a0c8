"""A question becomes variants times seeds, runs, statistics, and a table and report."""

from localvit.studies.config import Claim, Resources, StudyConfig
from localvit.studies.record import StudyError, StudyRecord
from localvit.studies.statistics import StudySummary, summarize
from localvit.studies.study import report_studies, run_study

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
