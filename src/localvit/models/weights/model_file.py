"""Weight files that describe their model, so that nobody has to remember how it was created.

They are safetensors with metadata. A file may come from anywhere, so its metadata is validated before anything is built
from it, and the model is first built on the meta device to check that the tensors fit.
"""

from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from localvit.data.config import InputConfig
from localvit.locality.localize import localizations, localize
from localvit.models.official_keys import from_official
from localvit.models.weights.checkpoints import fit, read_metadata, read_state_dict, require_fit, save_checkpoint
from localvit.models.weights.hub_files import describe_by_config, first_line, is_hub_name, weights_of
from localvit.models.weights.model_description import (
    ModelDescription,
    class_names_of,
    description_from,
    input_of,
    require_known,
)
from localvit.system.errors import LocalViTError

__all__ = ["ModelDescription", "load_model", "read_description", "save_model"]

_METADATA = "localvit_model"


def save_model(model: nn.Module, description: ModelDescription, path: str | Path, *, verify: bool = True) -> None:
    """Write ``model`` as a safetensors file that :func:`load_model` can load on its own.

    Args:
        model: the model to save.
        description: its description.
        path: the file to write.
        verify: whether to build the described model first, without memory, to make sure that the file can be loaded.
            Writing a small model takes less time, so a run verifies only the first of its files.

    Raises:
        ValueError: if ``description`` describes another model, so that the file could not be loaded.
    """
    if verify:
        with torch.device("meta"):
            described = _create(description, path)
            for call in [] if localizations(described) else localizations(model):
                localize(described, call.config, layers=call.layers, mode=call.mode)
        require_fit(model.state_dict(), described, f"the model to be saved as {path}")
    save_checkpoint(model, path, metadata={_METADATA: description.to_json()})


def load_model(path: str | Path, *, name: str | None = None) -> tuple[nn.Module, ModelDescription]:
    """Load the model in a file, in evaluation mode, with its description.

    Files of :func:`save_model` contain the description. Other files, such as the authors', need ``name``; the
    classifier's tensor then gives the number of classes, which are named after ImageNet-1k if there are 1000, and
    numbered otherwise.

    Args:
        path: a file of :func:`save_model`, or any file that :func:`localvit.load_checkpoint` reads; or a model on the
            Hugging Face hub, ``hf-hub:USER/NAME`` or ``hf-hub:USER/NAME@REVISION``; or ``local-dir:FOLDER``.
        name: the timm name of the model, for files without a description.

    Raises:
        FileNotFoundError: if the file does not exist.
        HubError: if the hub has no such model, or cannot be reached.
        ValueError: if neither the file nor ``name`` says which model it is, if the two contradict each other, or if the
            file is damaged, could run code, or does not fit.
    """
    hub_name = str(path) if is_hub_name(path) else None
    path = weights_of(path)
    state_dict = read_state_dict(path)
    described = read_description(path)
    if described is None and hub_name is not None:
        described = describe_by_config(hub_name)
    if described is not None and name not in (None, described.name):
        raise ValueError(f"{path} contains a {described.name}, but --model is {name}; omit --model")
    if described is None and name is None:
        raise ValueError(
            f"{path} does not say which model it contains; name it with --model, such as --model "
            "localvit_tiny_patch16_224. `localvit models` lists those of the paper, timm.list_models() all"
        )
    description = described or description_by_name(name or "", state_dict)
    with torch.device("meta"):
        fit(_create(description, path), state_dict, path)
    model = _create(description, path)
    model.load_state_dict(fit(model, state_dict, path))
    return model.eval(), description


def read_description(path: str | Path) -> ModelDescription | None:
    """The description in a file of :func:`save_model`; None for other files.

    Raises:
        ValueError: if this version does not understand it.
    """
    text = read_metadata(path, _METADATA)
    return None if text is None else description_from(text, path)


def _create(description: ModelDescription, path: str | Path) -> nn.Module:
    """The model with fresh weights, localized only if it always is."""
    try:
        return create_model(
            description.name, description.input, num_classes=len(description.class_names), **description.arguments
        )
    except Exception as error:  # timm meets bad arguments with assertions, indices and whatever follows
        raise ValueError(
            f"{path} is described as {description.name} with {description.arguments}, which cannot be built; that is "
            f"damaged, or from another version of localvit or timm: {type(error).__name__}: {error}"
        ) from error


def create_model(name: str, shown: InputConfig, *, num_classes: int, **arguments: Any) -> nn.Module:
    """A timm model for a given image size, which is dropped for models that take no size."""
    return model_and_arguments(name, shown, num_classes=num_classes, **arguments)[0]


def model_and_arguments(
    name: str, shown: InputConfig, *, num_classes: int, **arguments: Any
) -> tuple[nn.Module, dict[str, Any]]:
    """The model of :func:`create_model`, and the arguments that ``timm.create_model`` took for it.

    Raises:
        LocalViTError: if pretrained weights are asked for and cannot be downloaded.
    """
    arguments = {"num_classes": num_classes, "in_chans": shown.channels, "img_size": shown.image_size, **arguments}
    try:
        try:
            model: nn.Module = timm.create_model(name, **arguments)
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            del arguments["img_size"]
            model = timm.create_model(name, **arguments)
    except OSError as error:
        raise LocalViTError(
            f"the pretrained weights of {name} cannot be downloaded: {first_line(error)}. Check the connection, or do "
            "without pretrained weights"
        ) from error
    return model, arguments


def description_by_name(name: str, state_dict: dict[str, Tensor]) -> ModelDescription:
    """A description for files without one: timm's defaults, with as many classes as the classifier has outputs.

    Args:
        name: the timm name of the model.
        state_dict: its weights; empty for the classes of timm's defaults.

    Raises:
        ValueError: for a name that timm does not know.
    """
    require_known(name)
    with torch.device("meta"):
        model: Any = timm.create_model(name)
    config: dict[str, Any] = model.pretrained_cfg
    classifier = config.get("classifier") or ""
    classifier = classifier if isinstance(classifier, str) else classifier[0]
    weight = from_official(state_dict, model).get(f"{classifier}.weight")
    num_classes = model.num_classes if weight is None or weight.ndim == 0 or not weight.numel() else len(weight)
    return ModelDescription(name, {}, class_names_of(num_classes), input_of(config))
