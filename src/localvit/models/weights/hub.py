"""Writes models for the Hugging Face hub, so that ``timm.create_model("hf-hub:USER/NAME")`` loads them."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from timm.models._hub import save_config_for_hf
from torch import nn

from localvit.locality.localize import localizations
from localvit.models import localized
from localvit.models.weights.hub_files import CONFIG, WEIGHTS, HubError, first_line
from localvit.models.weights.model_description import ModelDescription
from localvit.models.weights.model_file import model_and_arguments, save_model
from localvit.system.files import write_text

_ROUNDING = 1e-4  # of logits, for kernels that another memory layout selects


def write_folder(model: nn.Module, description: ModelDescription, folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors``.

    Args:
        model: the model, created with the arguments of its description.
        description: its description.
        folder: the folder, created if needed.

    Raises:
        ValueError: if ``description`` describes another model.
    """
    architecture, arguments = _architecture(model, description)
    shown = description.input
    configuration = {
        "architecture": architecture,
        "label_names": list(description.class_names),
        "pretrained_cfg": {
            "input_size": [shown.channels, *shown.image_size],
            "mean": list(shown.mean),
            "std": list(shown.std),
            "interpolation": shown.interpolation,
            "crop_pct": shown.crop_fraction,
            "num_classes": len(description.class_names),
        },
    }
    with tempfile.TemporaryDirectory() as elsewhere:  # timm would leave half a file in the folder of a full disk
        # Private, because the public save_for_hf writes the weights as well. The tests load folders through timm.
        save_config_for_hf(model, str(Path(elsewhere, CONFIG)), model_config=configuration, model_args=arguments)
        write_text(folder / CONFIG, Path(elsewhere, CONFIG).read_text())
    save_model(model, description, folder / WEIGHTS)  # timm's file has no description


def require_same_model(model: nn.Module, description: ModelDescription, folder: Path) -> None:
    """Load a folder as ``timm.create_model`` does, and compare the answers to one random image.

    Raises:
        HubError: if they differ.
    """
    model.eval()
    device = next(model.parameters()).device
    image_1CHW = torch.randn(1, description.input.channels, *description.input.image_size, device=device)
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval().to(device)
    with torch.inference_mode():
        difference = float((loaded(image_1CHW) - model(image_1CHW)).abs().max())
    if not difference <= _ROUNDING:
        raise HubError(f"{folder}: timm loads a model whose logits differ by {difference:g}; nothing was published")


def push_folder(folder: Path, repository: str, *, private: bool = False) -> str:
    """Upload a folder as a model of the hub, which is created if needed.

    Hugging Face's own tools find the token, which ``hf auth login`` or ``HF_TOKEN`` gives them.

    Args:
        folder: the folder.
        repository: ``USER/NAME``.
        private: whether a new model is private.

    Returns:
        The address of the model.

    Raises:
        HubError: if the hub refuses, or cannot be reached.
        ValueError: if the hub allows no such name.
    """
    hub = HfApi(library_name="localvit")
    try:
        address = hub.create_repo(repository, private=private, exist_ok=True)
        hub.upload_folder(repo_id=address.repo_id, folder_path=folder, commit_message="Add the model")
    except HFValidationError as error:
        raise ValueError(f"{repository:.200} is no name for the hub; it must be USER/NAME: {error}") from error
    except (HfHubHTTPError, OSError) as error:
        raise HubError(
            f"{repository} was not uploaded: {first_line(error)}. `hf auth login` stores a token that may write"
        ) from error
    return str(address)


def _architecture(model: nn.Module, description: ModelDescription) -> tuple[str, dict[str, Any]]:
    """Name and arguments with which timm builds the model."""
    name = description.name.partition(".")[0]
    num_classes = len(description.class_names)
    with torch.device("meta"):
        named, arguments = model_and_arguments(
            name, description.input, num_classes=num_classes, **description.arguments
        )
    del arguments["num_classes"]  # a field of its own in timm's form
    calls = localizations(model)
    if calls == localizations(named):
        return name, arguments
    return localized.NAME, {**arguments, "base": name, "localizations": [dataclasses.asdict(call) for call in calls]}
