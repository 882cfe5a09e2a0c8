"""``localvit push``."""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localvit.commands.parser import Parser, command_parser
from localvit.system.terminal import ERRORS, RESULTS

if TYPE_CHECKING:
    from torch import nn

    from localvit.evaluation.evaluate import Evaluation
    from localvit.models.weights.model_description import ModelDescription
    from localvit.training.config import RunConfig

_DESCRIPTION = """Publish a trained model on the Hugging Face hub, with a card that says how good it is and how it was
trained. Then timm.create_model("hf-hub:USER/NAME", pretrained=True) loads it anywhere. local-dir:FOLDER writes the same
files into a folder instead. If the images of the run are at hand, the model is evaluated on those held out. Log in with
`hf auth login` first."""


def parser() -> Parser:
    """Options of the command."""
    parser = command_parser("push", "FILE USER/NAME [--private] [--license NAME]", _DESCRIPTION)
    parser.add_argument("file", type=str, help="weights of a run, such as runs/photos/best.safetensors")
    parser.add_argument("target", type=str, help="USER/NAME on the hub, or local-dir:FOLDER")
    parser.add_argument("--private", action="store_true", help="a new model is private")
    parser.add_argument("--license", type=str | None, default=None, help="of the weights, such as apache-2.0")
    parser.add_argument("--model", type=str | None, default=None, help="model name, for files that do not contain it")
    return parser


def command(options: Any) -> Callable[[], int]:
    """Write the folder, check it, and upload it."""
    from localvit.evaluation.model_card import run_of, write_card
    from localvit.models.weights.hub import push_folder, require_same_model, write_folder
    from localvit.models.weights.hub_files import FOLDER
    from localvit.models.weights.model_file import load_model

    def push() -> int:
        checkpoint, target = Path(options.file), str(options.target)
        model, description = load_model(checkpoint, name=options.model)
        run = run_of(checkpoint)
        with ExitStack() as stack:
            if target.startswith(FOLDER):
                folder = Path(target.removeprefix(FOLDER))
            else:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            write_folder(model, description, folder)
            require_same_model(model, description, folder)
            write_card(
                folder,
                f"USER/{folder.name}" if target.startswith(FOLDER) else target,
                model,
                description,
                checkpoint=checkpoint,
                run=run,
                evaluation=_evaluate(model, description, run),
                license_name=options.license,
            )
            if target.startswith(FOLDER):
                RESULTS.print(f"Written: {folder.resolve()}", soft_wrap=True)
                return 0
            with ERRORS.status(f"Uploading to {target}"):
                address = push_folder(folder, target, private=options.private)
        RESULTS.print(f"Published: {address}", soft_wrap=True)
        return 0

    return push


def _evaluate(model: "nn.Module", description: "ModelDescription", run: "RunConfig | None") -> "Evaluation | None":
    """The figures on the run's held-out images, if they are at hand."""
    from localvit.data import DataError
    from localvit.evaluation.evaluate import evaluate
    from localvit.training.config import HardwareConfig
    from localvit.training.progress import EvaluationProgress

    if run is None:
        ERRORS.print("There is no run beside the file, so the card says nothing about training and accuracy.")
        return None
    try:
        return evaluate(
            model,
            description,
            run.data,
            HardwareConfig(),
            batch_size=run.training.batch_size,
            callbacks=[EvaluationProgress(ERRORS)],
        )
    except (DataError, OSError) as error:
        message = f"The card says nothing about accuracy, because the run's images are not at hand: {error}"
        ERRORS.print(message, markup=False, soft_wrap=True)
        return None
