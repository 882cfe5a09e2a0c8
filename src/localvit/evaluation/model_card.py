"""The card of a model for the hub: what it does, how good it is, how it was trained, and what it is not for."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch import nn

from localvit.evaluation.evaluate import Evaluation
from localvit.evaluation.report import write_confusion_picture
from localvit.locality.localize import localizations
from localvit.models.costs import count_macs_if_possible, count_parameters
from localvit.models.weights.model_description import ModelDescription
from localvit.system.files import write_text
from localvit.training.config import RunConfig
from localvit.training.run_folder import BEST, read_config

_TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
_MOST_CLASSES = 10
_TASK = "image-classification"


def run_of(checkpoint: Path) -> RunConfig | None:
    """The run whose folder a file of weights is in; None for any other file."""
    return read_config(checkpoint.parent)


def write_card(
    folder: Path,
    repository: str,
    model: nn.Module,
    description: ModelDescription,
    *,
    checkpoint: Path,
    run: RunConfig | None,
    evaluation: Evaluation | None,
    license_name: str | None,
) -> None:
    """Write ``README.md`` and, if the model was evaluated, ``confusion_matrix.png``.

    Args:
        folder: the folder.
        repository: ``USER/NAME`` on the hub.
        model: the model.
        description: its description.
        checkpoint: the file that it was read from.
        run: the run that trained it, if known.
        evaluation: figures on held-out images, if known.
        license_name: identifier of the weights' license on the hub, such as ``apache-2.0``.
    """
    values: dict[str, Any] = {
        "title": repository.rpartition("/")[2],
        "repository": repository,
        "class_names": description.class_names,
        "size": " x ".join(map(str, description.input.image_size)),
        "what": _what(model, description),
        "evaluation": evaluation,
        "chosen": checkpoint.name == BEST,
        "weakest": _weakest(evaluation),
        "parameters": count_parameters(model),
        "macs": count_macs_if_possible(model, (description.input.channels, *description.input.image_size)),
        "megabytes": checkpoint.stat().st_size / 1e6,
        "recipe": None if run is None else _recipe(run),
        "license": license_name,
    }
    data = ModelCardData(
        license=license_name,
        library_name="timm",
        pipeline_tag=_TASK,
        tags=["localvit", "vision-transformer"],
        model_name=values["title"],
        eval_results=None if evaluation is None else [_result(evaluation, run)],
    )
    card = ModelCard.from_template(data, template_path=str(_TEMPLATE), **values)
    write_text(folder / "README.md", str(card))
    if evaluation is not None:
        write_confusion_picture(evaluation, folder)


def _what(model: nn.Module, description: ModelDescription) -> str:
    calls = localizations(model)
    if not calls:
        return f"The model is timm's {description.name}."
    layers = sum(len(call.layers) for call in calls)
    return (
        f"The model is {description.name}, in which {layers} layers mix each token with its neighbors on the token "
        "grid ([LocalViT](https://arxiv.org/abs/2104.05707))."
    )


def _weakest(evaluation: Evaluation | None) -> list[dict[str, Any]]:
    if evaluation is None:
        return []
    rows = evaluation.per_class().dropna().sort_values("top1", kind="stable").head(_MOST_CLASSES)
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def _result(evaluation: Evaluation, run: RunConfig | None) -> EvalResult:
    name = "held-out images" if run is None else run.data.name or Path(run.data.root or run.data.source).name
    return EvalResult(
        task_type=_TASK,
        dataset_type=run.data.source if run is not None else "unknown",
        dataset_name=name,
        metric_type="accuracy",
        metric_name="top-1 accuracy",
        metric_value=round(evaluation.top1 / 100, 4),
    )


def _recipe(run: RunConfig) -> list[tuple[str, object]]:
    """The settings that a reader asks for first. A path shows its last part only: the rest concerns nobody."""
    training, data = run.training, run.data
    return [
        ("images", f"{data.source}: {data.name or Path(data.root or '').name or 'built in'}"),
        ("held out", f"{data.held_out:g} of each class" if data.held_out else f"the split {data.val_split}"),
        ("weights at the start", "pretrained" if run.model.pretrained or run.model.checkpoint else "random"),
        ("epochs", training.total_epochs),
        ("batch size", training.batch_size),
        ("optimizer", training.optimizer),
        ("learning rate", f"{training.learning_rate:g}"),
        ("weight decay", f"{training.weight_decay:g}"),
        ("precision", run.hardware.precision),
        ("seed", run.seed),
    ]
