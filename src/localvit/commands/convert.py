"""``localvit convert``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from localvit.commands.parser import Parser, command_parser
from localvit.system.terminal import RESULTS


def parser() -> Parser:
    """Options of the command."""
    parser = command_parser(
        "convert",
        "SOURCE TARGET [--model NAME]",
        "Convert an authors' checkpoint to safetensors, or one of ours to their format.",
    )
    parser.add_argument("source", type=str, help="a checkpoint of a model of the paper, theirs or ours")
    parser.add_argument("target", type=str, help="ends in .safetensors for our format, in .pth for the authors'")
    parser.add_argument("--model", type=str | None, default=None, help="model name (default: inferred)")
    return parser


def command(options: Any) -> Callable[[], int]:
    """Convert."""
    from localvit.models.weights.convert import convert

    def run() -> int:
        name = convert(Path(options.source), Path(options.target), model_name=options.model)
        RESULTS.print(f"{options.target}: {name}", soft_wrap=True)
        return 0

    return run
