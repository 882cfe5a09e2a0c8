"""The ``localvit`` command: parsing and calling, no logic."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentParser
from rich.console import Console
from rich.progress import track
from rich.table import Table

from localvit.convert import convert
from localvit.models.catalog import PUBLISHED, CatalogEntry, catalog
from localvit.studies import StudyConfig, StudyError, run_study

_out, _err = Console(), Console(stderr=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line ``arguments``, this process's own by default, and return the exit status."""
    parser = _parser()
    parsed = parser.parse_args(_with_config_option(sys.argv[1:] if arguments is None else arguments))
    try:
        options = parser.instantiate(parsed)[parsed.command]
        command = _COMMANDS[parsed.command](options)
    except ValueError as error:
        parser.error(str(error))
    try:
        command()
    except (StudyError, ValueError, OSError) as error:
        _err.print(f"[bold red]localvit {parsed.command}:[/] {error}", highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        _err.print("Interrupted. What was finished is kept; the same command goes on.")
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

    models = ArgumentParser(description="The models of the paper and their baselines.", allow_abbrev=False)
    models.add_argument("--json", action="store_true", help="for programs")
    commands.add_subcommand("models", models, help="list the models of the paper with their costs")

    conversion = ArgumentParser(
        description="Turn a checkpoint of the authors into safetensors, or one of ours into theirs.", allow_abbrev=False
    )
    conversion.add_argument("source", type=str, help="a checkpoint of a model of the paper, theirs or ours")
    conversion.add_argument("target", type=str, help="ends in .safetensors for ours, in .pth for the authors' form")
    conversion.add_argument("--model", type=str | None, default=None, help="its name; found by its tensors by default")
    commands.add_subcommand("convert", conversion, help="convert a checkpoint from the authors' form or to it")
    return parser


def _study(options: Any) -> Callable[[], None]:
    study = StudyConfig(**{field.name: options[field.name] for field in dataclasses.fields(StudyConfig)})
    jobs = options.jobs or _cores() // study.training.threads or 1

    def run() -> None:
        run_study(study, Path(options.output) / study.name, jobs=jobs, console=_out)

    return run


def _models(options: Any) -> Callable[[], None]:
    def run() -> None:
        entries = list(track(catalog(), "Counting", len(PUBLISHED), console=_err, transient=True))
        if options.json:
            print(json.dumps([dataclasses.asdict(entry) for entry in entries], indent=2))
        else:
            _out.print(_models_table(entries))

    return run


def _models_table(entries: list[CatalogEntry]) -> Table:
    table = Table(caption="Costs of one 3 x 224 x 224 image and 1000 classes; top-1 on ImageNet-1k as published.")
    table.add_column("model", no_wrap=True)
    for header in ("parameters", "MACs", "top-1 %"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("baseline", overflow="fold")
    for entry in entries:
        top1 = "–" if entry.top1 is None else f"{entry.top1:g}"
        table.add_row(entry.name, f"{entry.parameters:,}", f"{entry.macs:,}", top1, entry.baseline or "")
    return table


def _convert(options: Any) -> Callable[[], None]:
    def run() -> None:
        name = convert(Path(options.source), Path(options.target), model_name=options.model)
        _out.print(f"{options.target}: {name}", soft_wrap=True, highlight=False)

    return run


_COMMANDS: dict[str, Callable[[Any], Callable[[], None]]] = {"study": _study, "models": _models, "convert": _convert}


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
