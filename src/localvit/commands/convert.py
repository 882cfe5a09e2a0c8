"""``localvit convert``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from localvit.commands.parser import Parser, command_parser
from localvit.system.terminal import RESULTS
from localvit.weights.convert import convert


def parser() -> Parser:
    """Options of the command."""
    parser = command_parser(
        "convert",
        "SOURCE TARGET [--model NAME]",
        "Turn a checkpoint of the authors into safetensors, or one of ours into theirs.",
    )
    parser.add_argument("source", type=str, help="a checkpoint of a model of the paper, theirs or ours")
    parser.add_argument("target", type=str, help="ends in .safetensors for ours, in .pth for the authors' form")
    parser.add_argument("--model", type=str | None, default=None, help="its name; found by its tensors by default")
    return parser


def command(options: Any) -> Callable[[], int]:
    """Convert."""

    def run() -> int:
        name = convert(Path(options.source), Path(options.target), model_name=options.model)
        RESULTS.print(f"{options.target}: {name}", soft_wrap=True, highlight=False)
        return 0

    return run
