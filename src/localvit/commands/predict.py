"""``localvit predict``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse.typing import PositiveInt

from localvit.commands.parser import Parser, command_parser


def parser() -> Parser:
    """Options of the command."""
    parser = command_parser(
        "predict",
        "--checkpoint FILE [--top N] [--json] IMAGE_OR_FOLDER ...",
        "Classify images. The exit status is 1 if any image fails.",
    )
    parser.add_argument("paths", type=str, nargs="+", help="images and folders of images")
    parser.add_checkpoint()
    parser.add_argument(
        "--top", type=PositiveInt | None, help="number of classes to show per image (default: 5, or all if fewer)"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON per image")
    parser.add_argument("--batch_size", type=PositiveInt, default=64, help="images per step")
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, mps, or auto for the best available")
    return parser


def command(options: Any) -> Callable[[], int]:
    """Predict and print."""
    from localvit.evaluation.predict import predict, print_predictions
    from localvit.models.exported import load_any

    def prediction() -> int:
        model, description = load_any(options.checkpoint, name=options.model, trusted=options.trust)
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
