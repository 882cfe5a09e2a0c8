"""Reads checkpoints without running code from them, and writes them with what was localized.

The released files are pickles. A pickle can name any function of any installed package and have it called, so these
are read by torch's restricted unpickler, which builds tensors and plain containers and refuses the rest.
"""

import argparse
import copy
import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from localvit.locality.config import LocalityConfig, Mode
from localvit.locality.localize import Localization, localizations, localize
from localvit.models.official_keys import from_official
from localvit.system.files import replacing

_SHOWN = 10
_METADATA = "localvit"


def save_checkpoint(model: nn.Module, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write the weights of ``model`` as safetensors, and beside them how it was localized.

    The file takes the place of an older one only when it is whole.

    Args:
        model: whose weights.
        path: where to.
        metadata: further texts to keep in the file, by their name.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    localized = json.dumps([asdict(call) for call in localizations(model)])
    with replacing(Path(path)) as file:
        file.write(safetensors.torch.save(tensors, {**(metadata or {}), "format": "pt", _METADATA: localized}))


def load_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Load a checkpoint of the authors or of this project into ``model``, every key of it and of the model.

    A file of :func:`save_checkpoint` knows how its model was localized: a model that is not yet becomes it, and one
    that is localized otherwise is refused, also where the tensors would fit, as they do for another activation. What
    does not fit leaves the model as it was.

    Args:
        model: a model of the same architecture, with as many classes and as large an image.
        path: the authors' ``.pth`` (a dict whose ``model`` is the state dict, beside optimizer and arguments), a
            pickled state dict, or safetensors. The content decides, not the name.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for a file that holds no state dict or that asks to run code, and for a state dict that does not
            fit the model; the message lists the keys and shapes that differ.
    """
    model.load_state_dict(fit(model, read_state_dict(path), path))


def fit(model: nn.Module, state_dict: Mapping[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """Localize ``model`` as the file says, and name the tensors that were read from it as the model does.

    Raises:
        ValueError: where they do not fit; the model is then as it was.
    """
    path = Path(path)
    calls = _missing_localizations(model, path)
    trial = model
    if calls:
        trial = _without_memory(model)
        with torch.device("meta"):
            _repeat(calls, trial, path)
    fitted = from_official(state_dict, trial)
    require_fit(fitted, trial, path)
    _repeat(calls, model, path)
    return fitted


def _missing_localizations(model: nn.Module, path: Path) -> list[Localization]:
    """The calls that make ``model`` the saved one; none where it is, or where the file tells of none."""
    saved = read_localizations(path)
    if saved is None or saved == localizations(model):
        return []
    if localizations(model):
        raise ValueError(
            f"{path} was saved from a model localized as {saved}, and this one is localized as {localizations(model)}; "
            "load it into a model that is not localized, or localized the same way"
        )
    return saved


def _repeat(calls: list[Localization], model: nn.Module, path: Path) -> None:
    try:
        for call in calls:
            localize(model, call.config, layers=call.layers, mode=call.mode)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"{path} was saved from a model localized as {calls}, which this {type(model).__name__} cannot be: {error}"
        ) from error


def _without_memory(model: nn.Module) -> nn.Module:
    """A copy whose tensors have shapes and no values."""
    shapes: dict[int, Any] = {id(buffer): buffer.to("meta") for buffer in model.buffers()}
    for parameter in model.parameters():
        shapes[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
    return copy.deepcopy(model, shapes)


def read_localizations(path: str | Path) -> list[Localization] | None:
    """How the model of a file of :func:`save_checkpoint` was localized; None for other files.

    Raises:
        ValueError: where the file tells of it in a way that this version does not understand.
    """
    text = read_metadata(path, _METADATA)
    if text is None:
        return None
    try:
        return [_localization(**call) for call in json.loads(text)]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"{path} does not say in a way that can be read how its model was localized; it is damaged, or from "
            f"another version of localvit: {error}"
        ) from error


def _localization(config: dict[str, Any], layers: list[int], mode: Mode) -> Localization:
    if mode not in get_args(Mode):
        raise ValueError(f"mode is {mode!r}; it must be one of {', '.join(get_args(Mode))}")
    if not all(type(index) is int for index in layers):
        raise TypeError(f"layers is {layers}; it must be a list of whole numbers")
    for field in fields(LocalityConfig):
        expected = (int, float) if isinstance(field.default, float) else type(field.default)
        if field.name in config and not isinstance(config[field.name], expected):
            raise TypeError(f"{field.name} is {config[field.name]!r}; it must be a {type(field.default).__name__}")
    return Localization(LocalityConfig(**config), tuple(layers), mode)


def read_metadata(path: str | Path, name: str) -> str | None:
    """The text that a safetensors file keeps under ``name``; None where it has none, and for other files."""
    if _is_pickle(Path(path)):
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            text: str | None = (file.metadata() or {}).get(name)
    except SafetensorError as error:
        raise ValueError(f"{path} is neither a PyTorch file nor whole safetensors: {error}") from error
    return text


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
    """Whether a file starts as torch's zip archives or bare pickles do; safetensors starts with a length and {."""
    with path.open("rb") as file:
        start = file.read(9)
    # Of the lengths, one in 32 starts as a pickle does.
    return start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[8:] != b"{")


def _read_pickle(path: Path) -> Any:
    try:
        # The authors' files keep their command-line arguments: a Namespace, a class that only holds attributes.
        # By name, torch would take a pickle that is called .safetensors for one.
        with torch.serialization.safe_globals([argparse.Namespace]), path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is a pickle that asks for more than tensors and plain containers, which could run code, so it "
            "was not read. If you trust whoever wrote it, extract its state dict with torch.load(..., "
            f"weights_only=False) and save that as safetensors. What it asked for: {error}"
        ) from error
    except Exception as error:  # an unpickler of damaged bytes raises anything
        raise ValueError(f"{path} is a damaged or truncated PyTorch file: {error}") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is neither a PyTorch file nor whole safetensors: {error}") from error


def require_fit(state_dict: Mapping[str, Tensor], model: nn.Module, path: str | Path) -> None:
    """Raise ``ValueError`` unless keys and shapes of ``state_dict``, read from ``path``, are those of ``model``."""
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
