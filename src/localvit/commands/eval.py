"""``localvit eval``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse.typing import PositiveInt

from localvit.commands.parser import Parser, command_parser
from localvit.data.config import DataConfig
from localvit.system.terminal import ERRORS, RESULTS
from localvit.training.config import HardwareConfig


def parser() -> Parser:
    """Options of the command."""
    parser = command_parser(
        "eval", "--checkpoint FILE --data.root FOLDER [--FIELD VALUE ...]", "Evaluate a checkpoint on held-out images."
    )
    parser.add_checkpoint()
    parser.add_argument("--batch_size", type=PositiveInt, default=128, help="images per step and process")
    parser.add_argument(
        "--output", type=str | None, default=None, help="folder for figures and tables (default: beside the checkpoint)"
    )
    parser.add_fields(DataConfig, "data")
    parser.add_fields(HardwareConfig, "hardware")
    return parser


def command(options: Any) -> Callable[[], int]:
    """Evaluate, print and write the figures."""
    from localvit.evaluation.evaluate import evaluate
    from localvit.evaluation.report import evaluation_line, evaluation_table, write_evaluation
    from localvit.models.exported import load_any
    from localvit.training.progress import EvaluationProgress
    from localvit.training.trainer import is_first_process

    def evaluation() -> int:
        model, description = load_any(options.checkpoint, name=options.model, trusted=options.trust)
        figures = evaluate(
            model,
            description,
            options.data,
            options.hardware,
            batch_size=options.batch_size,
            callbacks=[EvaluationProgress(ERRORS)],
        )
        if is_first_process():
            folder = Path(options.output or Path(options.checkpoint).parent / "evaluation")
            write_evaluation(figures, folder)
            RESULTS.print(evaluation_line(figures))
            RESULTS.print(evaluation_table(figures))
            RESULTS.print(f"Tables and confusion matrix: {folder.resolve()}", soft_wrap=True)
        return 0

    return evaluation
