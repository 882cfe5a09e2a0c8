"""Turns the authors' checkpoints into this project's safetensors, and back."""

from pathlib import Path

import timm
import torch

from localvit.models.catalog import PUBLISHED
from localvit.models.official_keys import to_official
from localvit.system.files import replacing
from localvit.weights.checkpoints import load_checkpoint, read_state_dict, save_checkpoint
from localvit.weights.model_description import require_known


def convert(source: Path, target: Path, *, model_name: str | None = None) -> str:
    """Write ``source`` as ``target``: theirs becomes ours (.safetensors), ours becomes theirs (.pth).

    Args:
        source: a checkpoint of a model of the paper.
        target: where to; its suffix says the form.
        model_name: the model; found by its tensors where it is not given.

    Returns:
        The name of the model.

    Raises:
        FileNotFoundError: where there is no source.
        ValueError: for another suffix, or a checkpoint that fits no model, or that fits not the one named.
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
        with replacing(target) as file:
            torch.save({"model": official}, file)
    return name


def _model_of(shapes: dict[str, tuple[int, ...]], source: Path) -> str:
    """The model of the paper whose tensors have these names and shapes, by either's keys."""
    for published in PUBLISHED:
        with torch.device("meta"):
            model = timm.create_model(published.name)
        ours = model.state_dict()
        for candidate in (ours, to_official(ours, model)):
            if {key: tuple(value.shape) for key, value in candidate.items()} == shapes:
                return published.name
    raise ValueError(
        f"{source} fits no model of the paper with 1000 classes at 224 x 224; name the model it is of with --model"
    )
