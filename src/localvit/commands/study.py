"""``localvit study``."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse.typing import PositiveInt

from localvit.commands.parser import Parser, command_parser
from localvit.studies import StudyConfig, run_study
from localvit.terminal import RESULTS


def parser() -> Parser:
    """Options of the command."""
    parser = command_parser(
        "study",
        "STUDY.yaml [--FIELD VALUE ...]",
        "Train every variant of a study with every seed, and report. Finished runs are not repeated.",
    )
    parser.add_config_file("the study's file; --config may be left out")
    parser.add_argument("--output", type=str, default="runs", help="where study folders are made")
    parser.add_argument(
        "--jobs",
        type=PositiveInt | None,
        default=None,
        help="training processes at a time; as many as cores allow by default",
    )
    parser.add_fields(StudyConfig)
    return parser


def command(options: Any) -> Callable[[], int]:
    """Train what is missing and report."""
    study = StudyConfig(**{field.name: options[field.name] for field in dataclasses.fields(StudyConfig)})
    jobs = options.jobs or _cores() // (study.recipe.hardware.threads or 1) or 1

    def run() -> int:
        run_study(study, Path(options.output) / study.name, jobs=jobs, console=RESULTS)
        return 0

    return run


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
