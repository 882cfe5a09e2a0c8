"""``localvit train``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from localvit.commands.parser import Parser, command_parser, config_from, named_file_first, print_listing
from localvit.system.terminal import ERRORS, RESULTS
from localvit.training.config import RunConfig


def arguments(given: list[str]) -> list[str]:
    """``train RECIPE`` is short for ``train --config FILE``."""
    return named_file_first(given, "recipe")


def listing() -> None:
    """Print the recipes that come with the package."""
    print_listing("recipe", "localvit train RECIPE [--FIELD VALUE ...]")


def parser() -> Parser:
    """Options of the command."""
    parser = command_parser(
        "train",
        "RECIPE [--FIELD VALUE ...]",
        "Train a model from a recipe: a YAML file, or the name of one that comes with localvit (`localvit train` lists "
        "them). After an interruption the same command resumes.",
    )
    parser.add_config_file("a recipe; later options override its fields. `--config` itself may be omitted")
    parser.add_argument(
        "--output", type=str | None, default=None, help="folder of the run (default: runs/MODEL-HASH of the settings)"
    )
    parser.add_fields(RunConfig)
    return parser


def command(options: Any) -> Callable[[], int]:
    """Train, and print the result."""
    from localvit.training.precision import advice
    from localvit.training.progress import TerminalProgress
    from localvit.training.run_folder import run
    from localvit.training.trainer import is_first_process

    config = config_from(options, RunConfig)
    folder = Path(options.output or f"runs/{config.model.name}-{config.key()}")

    def train() -> int:
        if is_first_process() and (hint := advice(config.hardware)):
            ERRORS.print(hint, markup=False, soft_wrap=True)
        result = run(config, folder, callbacks=[TerminalProgress(ERRORS)])
        best = result.best
        if is_first_process():
            kind = "averaged weights" if best["weights"] == "average" else "weights"
            RESULTS.print(
                f"top-1 {result.accuracy:.2f} % after the last epoch, {best['top1']:.2f} % after epoch "
                f"{best['epoch']}; best {kind}: {folder / 'best.safetensors'}",
                soft_wrap=True,
            )
        return 0

    return train
