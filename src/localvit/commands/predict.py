"""``localvit predict``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse.typing import PositiveInt

from localvit.commands.parser import Parser, command_parser
from localvit.evaluation.predict import predict, print_predictions
from localvit.weights.model_file import load_model


def parser() -> Parser:
    """Options of the command."""
    parser = command_parser(
        "predict",
        "--checkpoint FILE [--top N] [--json] IMAGE_OR_FOLDER ...",
        "Classify images. The exit status is 1 where any of them could not be.",
    )
    parser.add_argument("paths", type=str, nargs="+", help="images, and folders of images")
    parser.add_checkpoint()
    parser.add_argument("--top", type=PositiveInt, default=5, help="classes to show of each image")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each image, for programs")
    parser.add_argument("--batch_size", type=PositiveInt, default=64, help="images a step")
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, mps, or auto for the best there is")
    return parser


def command(options: Any) -> Callable[[], int]:
    """Predict and print."""

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
