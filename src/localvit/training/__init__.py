"""One recipe in, one run folder out."""

from localvit.training.config import BodyConfig, RunConfig, TrainingConfig
from localvit.training.run import RunResult, read_result, run

__all__ = ["BodyConfig", "RunConfig", "RunResult", "TrainingConfig", "read_result", "run"]
