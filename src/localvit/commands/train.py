"""``localvit train``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from localvit.commands.parser import Parser, command_parser, config_from, file_first
from localvit.system.terminal import ERRORS, RESULTS
from localvit.training import RunConfig, run
from localvit.training.progress import TerminalProgress
from localvit.training.trainer import is_first_process

arguments = file_first


def parser() -> Parser:
    """Options of the command."""
    parser = command_parser(
        "train",
        "RECIPE.yaml [--FIELD VALUE ...]",
        "Train a model as a recipe says. The same command again goes on where it was interrupted.",
    )
    parser.add_config_file("a recipe; fields given after it override its own; --config may be left out")
    parser.add_argument(
        "--output", type=str | None, default=None, help="the run's folder; runs/MODEL-HASH of the settings by default"
    )
    parser.add_fields(RunConfig)
    return parser


def command(options: Any) -> Callable[[], int]:
    """Train, and say what came out."""
    config = config_from(options, RunConfig)
    folder = Path(options.output or f"runs/{config.model.name}-{config.key()}")

    def train() -> int:
        result = run(config, folder, callbacks=[TerminalProgress(ERRORS)])
        best = result.best
        if is_first_process():
            kind = "averaged weights" if best["weights"] == "average" else "weights"
            RESULTS.print(
                f"top-1 {result.accuracy:.2f} % after the last epoch, {best['top1']:.2f} % after epoch "
                f"{best['epoch']}; those {kind} are {folder / 'best.safetensors'}",
                soft_wrap=True,
                highlight=False,
            )
        return 0

    return train
