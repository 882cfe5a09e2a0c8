"""The ``localvit`` command: parsing and calling, no logic."""

import dataclasses
import os
import sys
from pathlib import Path

from jsonargparse import ActionConfigFile, ArgumentParser
from rich.console import Console

from localvit.studies import StudyConfig, StudyError, run_study


def main(arguments: list[str] | None = None) -> int:
    """Run the command line ``arguments``, this process's own by default, and return the exit status."""
    parser = _parser()
    parsed = parser.parse_args(_with_config_option(sys.argv[1:] if arguments is None else arguments))
    try:
        options = parser.instantiate(parsed).study
        study = StudyConfig(**{field.name: options[field.name] for field in dataclasses.fields(StudyConfig)})
    except ValueError as error:
        parser.error(str(error))
    console, errors = Console(), Console(stderr=True)
    folder = Path(options.output) / study.name
    try:
        run_study(study, folder, jobs=options.jobs or _cores() // study.training.threads or 1, console=console)
    except StudyError as error:
        errors.print(f"[bold red]localvit study:[/] {error}", highlight=False)
        return 1
    except KeyboardInterrupt:
        errors.print(f"Interrupted. Finished runs and checkpoints are in {folder}; the same command goes on.")
        return 130
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="localvit", description="Locality in vision transformers.", allow_abbrev=False)
    commands = parser.add_subcommands(dest="command", required=True)

    study = ArgumentParser(
        description="Train every variant of a study with every seed, and report. Finished runs are not repeated.",
        usage="localvit study STUDY.yaml [--FIELD VALUE ...]",
        allow_abbrev=False,
    )
    study.add_argument("--config", action=ActionConfigFile, help="the study's file; --config may be left out")
    study.add_argument("--output", type=str, default="runs", help="where study folders are made")
    study.add_argument(
        "--jobs", type=int | None, default=None, help="training processes at a time; as many as cores allow by default"
    )
    study.add_class_arguments(StudyConfig)
    commands.add_subcommand("study", study, help="run a controlled experiment and write its report")
    return parser


def _with_config_option(arguments: list[str]) -> list[str]:
    """``study FILE`` is short for ``study --config FILE``, as the parser reads configurations by option alone."""
    match arguments:
        case ["study", file, *rest] if not file.startswith("-"):
            return ["study", "--config", file, *rest]
        case _:
            return arguments


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
