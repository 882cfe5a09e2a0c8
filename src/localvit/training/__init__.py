"""One recipe in, one run folder out."""

from localvit.training.config import (
    DistillationConfig,
    HardwareConfig,
    LoggingConfig,
    ModelConfig,
    RunConfig,
    TrainingConfig,
)
from localvit.training.run import RunResult, read_result, run

__all__ = [
    "DistillationConfig",
    "HardwareConfig",
    "LoggingConfig",
    "ModelConfig",
    "RunConfig",
    "RunResult",
    "TrainingConfig",
    "read_result",
    "run",
]
