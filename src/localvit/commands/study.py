"""``localvit study``."""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse.typing import PositiveFloat, PositiveInt

from localvit.commands.parser import Parser, command_parser, config_from, named_file_first, print_listing
from localvit.studies.compose import compose, read_yaml
from localvit.studies.config import StudyConfig
from localvit.system.machine import share_of_cores
from localvit.system.terminal import ERRORS, RESULTS
from localvit.training.config import HardwareConfig

WORKER = "localvit.studies.running.worker"

_DESCRIPTION = """Train every variant of a study with every seed, then report. Finished runs are never repeated; after
an interruption the same command resumes. A study is a YAML file, or the name of one that comes with localvit
(`localvit study` lists them): a name, a question, a baseline, and variants that set recipe fields by their dotted
names, such as model.locality.kernel_size. The scale provides the recipe, and the study overrides fields of it under
recipe; under scales it overrides recipe, variants, seeds and start for a single scale. docs/studies.md has an example
of ten lines."""


def arguments(given: list[str]) -> list[str]:
    """``study STUDY --scale SCALE`` becomes ``--config`` with the study composed at that scale."""
    names = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    names.add_argument("--config")
    names.add_argument("--scale")
    found, rest = names.parse_known_args(named_file_first(given, "study"))
    if found.config is None:
        return given
    composed = compose(read_yaml(Path(found.config)), found.scale)
    return ["--config", json.dumps(composed), *rest]


def listing() -> None:
    """Print the studies that come with the package."""
    print_listing("study", "localvit study STUDY [--scale SCALE] [--dry-run] [--FIELD VALUE ...]")


def parser() -> Parser:
    """Options of the command."""
    parser = command_parser("study", "STUDY [--scale SCALE] [--dry-run] [--FIELD VALUE ...]", _DESCRIPTION)
    parser.add_config_file("the study; `--config` itself may be omitted")
    parser.add_argument("--output", type=str, default="runs", help="folder for studies and their runs")
    parser.add_argument(
        "--dry-run", action="store_true", help="show the runs with their costs and duration, train nothing"
    )
    parser.add_argument(
        "--power", action="store_true", help="show how likely each look finds an effect of which size, train nothing"
    )
    parser.add_argument(
        "--sd",
        type=PositiveFloat | None,
        default=None,
        help="with --power: standard deviation of accuracy between seeds, in points (default: of the runs so far)",
    )
    parser.add_argument(
        "--jobs",
        type=PositiveInt | None,
        default=None,
        help="concurrent training processes, which share the cores (default: as many as the cores allow)",
    )
    parser.add_argument("--ray", type=str | None, default=None, help="address of a Ray cluster to train on, or auto")
    parser.add_argument("--shard", type=str, default="1/1", help="this machine's share of the runs, such as 2/8")
    parser.add_argument(
        "--measure", type=bool, default=True, help="measure speed and memory of the variants after training"
    )
    parser.add_fields(StudyConfig)
    return parser


def command(options: Any) -> Callable[[], int]:
    """Train what is missing and report, or print the plan."""
    from localvit.studies.running.local import LocalBackend
    from localvit.studies.running.plan import in_words, plan, table
    from localvit.studies.running.runner import Backend, parse_shard, shard
    from localvit.studies.session import standing
    from localvit.studies.study import run_study, spread_so_far
    from localvit.training.precision import advice

    study = config_from(options, StudyConfig)
    part = parse_shard(options.shard)
    output = Path(options.output)
    jobs = options.jobs or _default_jobs(study.recipe.hardware)
    threads = share_of_cores(jobs)

    def advise() -> None:
        if hint := advice(study.recipe.hardware):
            ERRORS.print(hint, markup=False, soft_wrap=True)

    def show_plan() -> int:
        advise()
        outcomes = dict(standing(study, output))
        runs = {run: outcomes[run] for run in shard([*outcomes], *part)}
        with RESULTS.status("Counting and measuring the variants"):
            planned = plan(study, runs, threads=threads)
        RESULTS.print(table(study, planned))
        RESULTS.print(f"Plan {study.plan_hash()}", highlight=False)
        left = [run for run in planned.runs if run.status != "finished"]
        seconds = planned.seconds(jobs)
        about = "" if seconds is None else f": about {in_words(seconds)}"
        RESULTS.print(f"{len(left)} of {len(planned.runs)} runs to train, {jobs} at a time on this machine{about}")
        if planned.problem is not None:
            RESULTS.print(f"The duration is unknown: {planned.problem}", markup=False, soft_wrap=True)
        return 0

    def show_power() -> int:
        from localvit.studies.reporting.terminal import power_table

        RESULTS.print(power_table(study, options.sd or spread_so_far(study, output)))
        return 0

    def train() -> int:
        if options.ray is not None:
            from localvit.studies.running.ray_cluster import RayBackend  # an optional dependency

            backend: Callable[[], Backend] = partial(RayBackend, options.ray, study.resources)
        else:
            advise()
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

    return show_power if options.power else show_plan if options.dry_run else train


def _default_jobs(hardware: HardwareConfig) -> int:
    """One run per GPU, or as many as the cores allow."""
    import torch

    if hardware.accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.device_count()
    return share_of_cores(hardware.threads or 1)
