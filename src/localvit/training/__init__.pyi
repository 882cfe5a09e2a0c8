from .config import (
    DistillationConfig,
    HardwareConfig,
    LoggingConfig,
    ModelConfig,
    RunConfig,
    TrainingConfig,
)
from .run_folder import RunResult, read_result, run

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
