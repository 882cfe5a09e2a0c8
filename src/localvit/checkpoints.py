"""Reads checkpoints without running code from them, and writes them with what was localized.

The released files are pickles. A pickle can name any function of any installed package and have it called, so these
are read by torch's restricted unpickler, which builds tensors and plain containers and refuses the rest.
"""

import argparse
import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from localvit.files import replacing
from localvit.locality import LocalityConfig
from localvit.localize import Localization, localizations, localize
from localvit.official_keys import from_official

_SHOWN = 10
_METADATA = "localvit"


def save_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Write the weights of ``model`` as safetensors, and beside them how it was localized.

    The file takes the place of an older one only when it is whole.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    metadata = {"format": "pt", _METADATA: json.dumps([asdict(call) for call in localizations(model)])}
    with replacing(Path(path)) as file:
        file.write(safetensors.torch.save(tensors, metadata))


def load_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Load a checkpoint of the authors or of this project into ``model``, every key of it and of the model.

    A file of :func:`save_checkpoint` knows how its model was localized: a model that is not yet becomes it, and one
    that is localized otherwise is refused, also where the tensors would fit, as they do for another activation.

    Args:
        model: a model of the same architecture, with as many classes and as large an image.
        path: the authors' ``.pth`` (a dict whose ``model`` is the state dict, beside optimizer and arguments), a
            pickled state dict, or safetensors. The content decides, not the name.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for a file that holds no state dict or that asks to run code, and for a state dict that does not
            fit the model; the message lists the keys and shapes that differ.
    """
    state_dict = read_state_dict(path)
    _localize_as_saved(model, Path(path))
    state_dict = from_official(state_dict, model)
    _require_fit(state_dict, model, path)
    model.load_state_dict(state_dict)


def _localize_as_saved(model: nn.Module, path: Path) -> None:
    saved = read_localizations(path)
    if saved is None or saved == localizations(model):
        return
    if localizations(model):
        raise ValueError(
            f"{path} was saved from a model localized as {saved}, and this one is localized as {localizations(model)}; "
            "load it into a model that is not localized, or localized the same way"
        )
    for call in saved:
        localize(model, call.config, layers=call.layers, mode=call.mode)


def read_localizations(path: str | Path) -> list[Localization] | None:
    """How the model of a file of :func:`save_checkpoint` was localized; None for other files."""
    if _is_pickle(Path(path)):
        return None
    with safetensors.safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get(_METADATA)
    if text is None:
        return None
    return [
        Localization(LocalityConfig(**call["config"]), tuple(call["layers"]), call["mode"]) for call in json.loads(text)
    ]


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by their key, on the CPU; see :func:`load_checkpoint`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint file {path}")
    content = _read_pickle(path) if _is_pickle(path) else _read_safetensors(path)
    for wrapper in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path} holds {_describe(content)}; a state dict maps parameter names to tensors")
    strangers = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if strangers:
        raise ValueError(
            f"{path} holds no state dict: {_listing(strangers)} are no tensors. It must be a dict of tensors, "
            "or a dict with one under 'model' or 'state_dict'"
        )
    return dict(content)


def _is_pickle(path: Path) -> bool:
    """Whether a file starts as torch's zip archives or bare pickles do; safetensors starts with a length."""
    with path.open("rb") as file:
        start = file.read(4)
    return start == b"PK\x03\x04" or start[:1] == b"\x80"


def _read_pickle(path: Path) -> Any:
    try:
        # The authors' files keep their command-line arguments: a Namespace, a class that only holds attributes.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is a pickle that asks for more than tensors and plain containers, which could run code, so it "
            "was not read. If you trust whoever wrote it, extract its state dict with torch.load(..., "
            f"weights_only=False) and save that as safetensors. What it asked for: {error}"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} is a damaged or truncated PyTorch file: {error}") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is neither a PyTorch file nor whole safetensors: {error}") from error


def _require_fit(state_dict: Mapping[str, Tensor], model: nn.Module, path: str | Path) -> None:
    ours = model.state_dict()
    missing = [key for key in ours if key not in state_dict]
    unexpected = [key for key in state_dict if key not in ours]
    shapes = [
        f"{key} is {tuple(state_dict[key].shape)} in the file and {tuple(ours[key].shape)} in the model"
        for key in ours
        if key in state_dict and state_dict[key].shape != ours[key].shape
    ]
    problems = [
        f"{len(items)} {what}: {_listing(items)}"
        for what, items in (
            ("keys of the model that the file lacks", missing),
            ("keys of the file that the model lacks", unexpected),
            ("shapes differ", shapes),
        )
        if items
    ]
    if problems:
        raise ValueError(f"{path} does not fit this {type(model).__name__}.\n" + "\n".join(problems))


def _listing(items: list[str]) -> str:
    return ", ".join(map(str, items[:_SHOWN])) + (f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else "")


def _describe(content: object) -> str:
    return "an empty dict" if content == {} else f"a {type(content).__name__}"
