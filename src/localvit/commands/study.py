"""``localvit study``."""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jsonargparse.typing import PositiveInt

from localvit.commands.parser import Parser, command_parser, config_from, file_first
from localvit.studies import StudyConfig, run_study
from localvit.studies.compose import compose, read_yaml
from localvit.studies.local import LocalBackend
from localvit.studies.plan import in_words, plan, table
from localvit.studies.runner import Backend, parse_shard, shard
from localvit.studies.study import RUNS
from localvit.system.machine import share_of_cores
from localvit.system.terminal import RESULTS
from localvit.training import HardwareConfig

_DESCRIPTION = """Train every variant of a study with every seed, and report. Finished runs are not repeated; the same
command goes on after an interruption. A study is a YAML file with a name, a question, a baseline, and variants that set
fields of the recipe by their dotted names, such as model.locality.kernel_size. Its recipe is that of the scale, with
the fields that the study sets under recipe; under scales it can set recipe, variants, seeds and start for one scale.
docs/studies.md has an example of ten lines."""


def arguments(given: list[str]) -> list[str]:
    """The study's file at its scale as the configuration that the parser reads first."""
    names = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    names.add_argument("--config")
    names.add_argument("--scale")
    found, rest = names.parse_known_args(file_first(given))
    if found.config is None:
        return given
    composed = compose(read_yaml(Path(found.config)), found.scale)
    return ["--config", json.dumps(composed), *rest]


def parser() -> Parser:
    """Options of the command."""
    parser = command_parser("study", "STUDY.yaml [--scale SCALE] [--dry-run] [--FIELD VALUE ...]", _DESCRIPTION)
    parser.add_config_file("the study's file; --config may be left out")
    parser.add_argument("--output", type=str, default="runs", help="where studies and their runs are kept")
    parser.add_argument(
        "--dry-run", action="store_true", help="show the runs, what they cost and how long they take, and train nothing"
    )
    parser.add_argument(
        "--jobs",
        type=PositiveInt | None,
        default=None,
        help="training processes at a time; as many as cores allow by default. Threads are divided between them",
    )
    parser.add_argument("--ray", type=str | None, default=None, help="address of a Ray cluster to train on, or auto")
    parser.add_argument(
        "--shard", type=str, default="1/1", help="train the runs of one of several machines, such as 2/8; then report"
    )
    parser.add_argument(
        "--measure", type=bool, default=True, help="measure speed and memory of the variants here when all are trained"
    )
    parser.add_fields(StudyConfig)
    return parser


def command(options: Any) -> Callable[[], int]:
    """Train what is missing and report, or say what would be done."""
    study = config_from(options, StudyConfig)
    part = parse_shard(options.shard)
    output = Path(options.output)
    jobs = options.jobs or _default_jobs(study.recipe.hardware)
    threads = share_of_cores(jobs)

    def show_plan() -> int:
        runs = shard(study.runs(output / RUNS), *part)
        with RESULTS.status("Counting and measuring the variants"):
            planned = plan(study, runs, threads=threads)
        RESULTS.print(table(study, planned))
        left = [run for run in planned.runs if run.status != "finished"]
        seconds = planned.seconds(jobs)
        about = "" if seconds is None else f": about {in_words(seconds)}"
        RESULTS.print(
            f"{len(left)} of {len(planned.runs)} runs to train, {jobs} at a time on this machine{about}",
            highlight=False,
        )
        if planned.problem is not None:
            RESULTS.print(f"The time is not known: {planned.problem}", highlight=False, markup=False, soft_wrap=True)
        return 0

    def train() -> int:
        if options.ray is not None:
            from localvit.studies.ray_cluster import RayBackend  # an extra that few have

            backend: Callable[[], Backend] = partial(RayBackend, options.ray, study.resources)
        else:
            backend = partial(LocalBackend, jobs, threads)
        summary = run_study(
            study,
            output,
            backend=backend,
            console=RESULTS,
            part=part,
            measured=options.measure,
            threads=threads,
        )
        return 1 if summary.failed else 0

    return show_plan if options.dry_run else train


def _default_jobs(hardware: HardwareConfig) -> int:
    """One run a GPU, or as many as cores allow."""
    if hardware.accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.device_count()
    return share_of_cores(hardware.threads or 1)
