"""Studies built from their files, as the command line builds them."""

import functools
from pathlib import Path
from typing import Any

from localvit.studies.claims import Claim, Price
from localvit.studies.compose import compose, read_yaml
from localvit.studies.config import StudyConfig, Sweep
from localvit.training.overrides import run_config


def study_at(values: dict[str, Any], scale: str | None = None) -> StudyConfig:
    composed = compose(values, scale)
    sweep = composed.get("sweep")
    built = {
        "recipe": run_config(composed["recipe"]),
        "claims": [Claim(**claim) for claim in composed.get("claims", [])],
        "prices": [Price(**price) for price in composed.get("prices", [])],
        "sweep": None if sweep is None else Sweep(**sweep),
    }
    return StudyConfig(**{**composed, **built})


@functools.cache
def shipped_study(path: Path, scale: str | None = None) -> StudyConfig:
    return study_at(read_yaml(path), scale)
