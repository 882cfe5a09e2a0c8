"""``localvit pull``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from localvit.commands.parser import Parser, command_parser
from localvit.system.terminal import RESULTS


def parser() -> Parser:
    """Options of the command."""
    parser = command_parser(
        "pull",
        "USER/NAME[@REVISION] [--output FILE]",
        "Download a model from the Hugging Face hub as one file, which contains classes and preprocessing.",
    )
    parser.add_argument("name", type=str, help="the model on the hub; its files stay in Hugging Face's cache, too")
    parser.add_argument("--output", type=str | None, default=None, help="file to write (default: NAME.safetensors)")
    return parser


def command(options: Any) -> Callable[[], int]:
    """Download and write."""
    from localvit.models.weights.hub_files import HUB, name_of
    from localvit.models.weights.model_file import load_model, save_model

    def pull() -> int:
        name = f"{HUB}{str(options.name).removeprefix(HUB)}"
        model, description = load_model(name)
        path = Path(options.output or f"{name_of(name)}.safetensors")
        save_model(model, description, path)
        RESULTS.print(f"{path}: {description.name}, {len(description.class_names)} classes", soft_wrap=True)
        return 0

    return pull
