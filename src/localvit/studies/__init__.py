"""A question becomes variants times seeds, runs, statistics, and a table and report."""

from localvit.studies.config import StudyConfig, VariantConfig
from localvit.studies.runner import StudyError
from localvit.studies.study import run_study

__all__ = ["StudyConfig", "StudyError", "VariantConfig", "run_study"]
