"""Converts the authors' checkpoints to this project's safetensors, and back."""

import io
from pathlib import Path

import timm
import torch

from localvit.models.catalog import PUBLISHED
from localvit.models.official_keys import to_official
from localvit.models.weights.checkpoints import load_checkpoint, read_state_dict, save_checkpoint
from localvit.models.weights.model_description import require_known
from localvit.system.files import replacing


def convert(source: Path, target: Path, *, model_name: str | None = None) -> str:
    """Convert a checkpoint of either kind to ours (.safetensors) or to the authors' (.pth).

    Args:
        source: a checkpoint of a model of the paper.
        target: the file to write; its suffix selects the format.
        model_name: the model. Defaults to the one whose tensors match.

    Returns:
        The name of the model.

    Raises:
        FileNotFoundError: if the source does not exist.
        ValueError: for another suffix, or if the checkpoint does not fit the named model, or any.
    """
    if target.suffix not in (".safetensors", ".pth"):
        raise ValueError(
            f"{target} ends in {target.suffix!r}; it must be .safetensors for ours or .pth for the authors'"
        )
    if model_name is not None:
        require_known(model_name)
    state_dict = read_state_dict(source)
    name = model_name or _model_of({key: tuple(value.shape) for key, value in state_dict.items()}, source)
    model = timm.create_model(name)
    load_checkpoint(model, source)
    if target.suffix == ".safetensors":
        save_checkpoint(model, target)
    else:
        official = to_official(model.state_dict(), model)
        content = io.BytesIO()
        torch.save({"model": official}, content)  # its own writer reports a full disk as an error of its own
        with replacing(target) as file:
            file.write(content.getbuffer())
    return name


def _model_of(shapes: dict[str, tuple[int, ...]], source: Path) -> str:
    """The model of the paper whose tensors have these names and shapes, in either format."""
    for published in PUBLISHED:
        with torch.device("meta"):
            model = timm.create_model(published.name)
        ours = model.state_dict()
        for candidate in (ours, to_official(ours, model)):
            if {key: tuple(value.shape) for key, value in candidate.items()} == shapes:
                return published.name
    raise ValueError(f"{source} fits no model of the paper with 1000 classes at 224 x 224; name its model with --model")
