"""The ``localvit`` command: parsing and calling, no logic."""

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser
from jsonargparse.typing import PositiveInt
from rich.console import Console
from rich.progress import track
from rich.table import Table

from localvit.convert import convert
from localvit.data import DataConfig
from localvit.errors import LocalViTError
from localvit.evaluation import evaluate
from localvit.evaluation_report import evaluation_table, write_evaluation
from localvit.model_file import load_model
from localvit.models.catalog import PUBLISHED, CatalogEntry, catalog
from localvit.predict import predict, print_predictions
from localvit.quiet import quiet
from localvit.studies import StudyConfig, run_study
from localvit.suggestions import field_names, with_suggestion
from localvit.training import HardwareConfig, RunConfig, run
from localvit.training.checkpointing import Interrupted
from localvit.training.progress import EvaluationProgress, TerminalProgress
from localvit.training.trainer import is_first_process

_out, _err = Console(), Console(stderr=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line ``arguments``, this process's own by default, and return the exit status."""
    quiet()
    parser = _parser()
    parsed = parser.parse_args(_with_positional_config(sys.argv[1:] if arguments is None else arguments))
    try:
        options = parser.instantiate(parsed)[parsed.command]
        command = _COMMANDS[parsed.command](options)
    except ValueError as error:
        parser.error(str(error))
    try:
        return command() or 0
    except (LocalViTError, ValueError, OSError) as error:
        _err.print(f"[bold red]localvit {parsed.command}:[/] ", end="")
        _err.print(str(error), highlight=False, soft_wrap=True, markup=False)
        return 1
    except Interrupted as interruption:
        _err.print(f"{interruption}; the state is saved, and the same command goes on.")
        return 128 + interruption.signal_number
    except KeyboardInterrupt:
        _err.print("Interrupted. What was finished is kept; the same command goes on.")
        return 128 + signal.SIGINT


class _Parser(ArgumentParser):
    """A parser that knows the nearest right name of an option."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with ``message`` and a suggestion."""
        raise SystemExit(_refuse(self, with_suggestion(message, _OPTIONS)))


def _refuse(parser: ArgumentParser, message: str) -> int:
    _err.print(f"usage: {parser.usage or parser.prog}", markup=False, highlight=False, soft_wrap=True)
    _err.print(f"error: {message}", markup=False, highlight=False, soft_wrap=True)
    return 2


def _parser() -> ArgumentParser:
    parser = _Parser(prog="localvit", description="Locality in vision transformers.", allow_abbrev=False)
    commands = parser.add_subcommands(dest="command", required=True)

    training = _Parser(
        description="Train a model as a recipe says. The same command again goes on where it was interrupted.",
        usage="localvit train --config RECIPE.yaml [--FIELD VALUE ...]",
        allow_abbrev=False,
    )
    training.add_argument("--config", action=ActionConfigFile, help="a recipe; fields given after it override its own")
    training.add_argument(
        "--output", type=str | None, default=None, help="the run's folder; runs/MODEL-HASH of the settings by default"
    )
    training.add_class_arguments(RunConfig)
    commands.add_subcommand("train", training, help="train a model and keep all of the run in a folder")

    evaluation = _Parser(description="Evaluate a checkpoint on images held out.", allow_abbrev=False)
    evaluation.add_argument("--checkpoint", type=str, required=True, help="weights of a run, or of the authors")
    evaluation.add_argument(
        "--model", type=str | None, default=None, help="name of the model, for weights that do not say it"
    )
    evaluation.add_argument("--batch_size", type=PositiveInt, default=128, help="images a step and process")
    evaluation.add_argument(
        "--output", type=str | None, default=None, help="folder of figures and tables; beside the checkpoint by default"
    )
    evaluation.add_class_arguments(DataConfig, "data")
    evaluation.add_class_arguments(HardwareConfig, "hardware")
    commands.add_subcommand("eval", evaluation, help="accuracy, loss and confusion matrix of a checkpoint")

    prediction = _Parser(
        description="Classify images. The exit status is 1 where any of them could not be.",
        usage="localvit predict --checkpoint FILE [--top N] [--json] IMAGE_OR_FOLDER ...",
        allow_abbrev=False,
    )
    prediction.add_argument("paths", type=str, nargs="+", help="images, and folders of images")
    prediction.add_argument("--checkpoint", type=str, required=True, help="weights of a run, or of the authors")
    prediction.add_argument(
        "--model", type=str | None, default=None, help="name of the model, for weights that do not say it"
    )
    prediction.add_argument("--top", type=PositiveInt, default=5, help="classes to show of each image")
    prediction.add_argument("--json", action="store_true", help="a line of JSON for each image, for programs")
    prediction.add_argument("--batch_size", type=PositiveInt, default=64, help="images a step")
    prediction.add_argument("--device", type=str, default="auto", help="cpu, cuda, mps, or auto for the best there is")
    commands.add_subcommand("predict", prediction, help="classify images and folders of images")

    study = _Parser(
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

    models = _Parser(description="The models of the paper and their baselines.", allow_abbrev=False)
    models.add_argument("--json", action="store_true", help="for programs")
    commands.add_subcommand("models", models, help="list the models of the paper with their costs")

    conversion = _Parser(
        description="Turn a checkpoint of the authors into safetensors, or one of ours into theirs.", allow_abbrev=False
    )
    conversion.add_argument("source", type=str, help="a checkpoint of a model of the paper, theirs or ours")
    conversion.add_argument("target", type=str, help="ends in .safetensors for ours, in .pth for the authors' form")
    conversion.add_argument("--model", type=str | None, default=None, help="its name; found by its tensors by default")
    commands.add_subcommand("convert", conversion, help="convert a checkpoint from the authors' form or to it")
    return parser


def _train(options: Any) -> Callable[[], int | None]:
    config = RunConfig(**{field.name: options[field.name] for field in dataclasses.fields(RunConfig)})
    folder = Path(options.output or f"runs/{config.model.name}-{config.key()}")

    def train() -> None:
        result = run(config, folder, callbacks=[TerminalProgress(_err)])
        best = result.best
        if is_first_process():
            kind = "averaged weights" if best["weights"] == "average" else "weights"
            _out.print(
                f"top-1 {result.accuracy:.2f} % after the last epoch, {best['top1']:.2f} % after epoch "
                f"{best['epoch']}; those {kind} are {folder / 'best.safetensors'}",
                soft_wrap=True,
                highlight=False,
            )

    return train


def _eval(options: Any) -> Callable[[], int | None]:
    def evaluation() -> None:
        model, description = load_model(options.checkpoint, name=options.model)
        figures = evaluate(
            model,
            description,
            options.data,
            options.hardware,
            batch_size=options.batch_size,
            callbacks=[EvaluationProgress(_err)],
        )
        if is_first_process():
            folder = Path(options.output or Path(options.checkpoint).parent / "evaluation")
            write_evaluation(figures, folder)
            _out.print(evaluation_table(figures))
            _out.print(f"Tables and confusion matrix: {folder.resolve()}", soft_wrap=True, highlight=False)

    return evaluation


def _predict(options: Any) -> Callable[[], int | None]:
    def prediction() -> int:
        model, description = load_model(options.checkpoint, name=options.model)
        predictions = predict(
            model,
            description,
            [Path(path) for path in options.paths],
            top=options.top,
            batch_size=options.batch_size,
            device=options.device,
        )
        return int(print_predictions(predictions, as_json=options.json) > 0)

    return prediction


def _study(options: Any) -> Callable[[], int | None]:
    study = StudyConfig(**{field.name: options[field.name] for field in dataclasses.fields(StudyConfig)})
    jobs = options.jobs or _cores() // (study.recipe.hardware.threads or 1) or 1

    def run() -> None:
        run_study(study, Path(options.output) / study.name, jobs=jobs, console=_out)

    return run


def _models(options: Any) -> Callable[[], int | None]:
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


def _convert(options: Any) -> Callable[[], int | None]:
    def run() -> None:
        name = convert(Path(options.source), Path(options.target), model_name=options.model)
        _out.print(f"{options.target}: {name}", soft_wrap=True, highlight=False)

    return run


_COMMANDS: dict[str, Callable[[Any], Callable[[], int | None]]] = {
    "train": _train,
    "eval": _eval,
    "predict": _predict,
    "study": _study,
    "models": _models,
    "convert": _convert,
}
_OPTIONS = [*field_names(RunConfig), *field_names(StudyConfig), "config", "output", "checkpoint", "jobs", "top", "json"]


def _with_positional_config(arguments: list[str]) -> list[str]:
    """``study FILE`` is short for ``study --config FILE``, as the parser reads configurations by option alone."""
    match arguments:
        case ["study" | "train" as command, file, *rest] if not file.startswith("-"):
            return [command, "--config", file, *rest]
        case _:
            return arguments


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
