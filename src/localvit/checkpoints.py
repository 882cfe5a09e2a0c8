"""Reads checkpoints without running code from them, and the authors' keys as one table.

The released files are pickles. A pickle can name any function of any installed package and have it called, so these
are read by torch's restricted unpickler, which builds tensors and plain containers and refuses the rest.
"""

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from localvit.locality import LocalityFeedForward

_SHOWN = 10


def load_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Load a checkpoint of the authors or of this project into ``model``, every key of it and of the model.

    Args:
        model: a model of the same architecture, with as many classes and as large an image.
        path: the authors' ``.pth`` (a dict whose ``model`` is the state dict, beside optimizer and arguments), a
            pickled state dict, or safetensors. The content decides, not the name.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for a file that holds no state dict or that asks to run code, and for a state dict that does not
            fit the model; the message lists the keys and shapes that differ.
    """
    state_dict = from_official(read_state_dict(path), model)
    _require_fit(state_dict, model, path)
    model.load_state_dict(state_dict)


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


def from_official(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename the authors' keys to this project's; keys that are not theirs stay as they are.

    Args:
        state_dict: tensors by the authors' keys or ours.
        model: the model they are for, whose blocks say which of the authors' numbered layers is which.
    """
    names = official_prefixes(model)
    converted = {}
    for key, value in state_dict.items():
        # Longest first: "conv.conv.1" is a prefix of "conv.conv.10" as text only, and the dot ends it.
        prefix = next((p for p in names if key.startswith(p + ".")), None)
        if prefix is not None:
            key = names[prefix] + key.removeprefix(prefix)
            # The bottleneck of SE is linear layers in theirs and 1x1 convolutions in timm's: one more pair of axes.
            if ".channel_attention.fc" in key and value.ndim == 2:
                value = value[:, :, None, None]
        converted[key] = value
    return converted


def official_prefixes(model: nn.Module) -> dict[str, str]:
    """The authors' prefix of every layer of the locality blocks in ``model``, with ours: the table of the mechanism.

    In their files a block's feed-forward network is ``conv.conv``, a sequence whose numbers depend on which of the
    optional steps are there.
    """
    table: dict[str, str] = {}
    for name, module in model.named_modules():
        if not isinstance(module, LocalityFeedForward):
            continue
        theirs = name.removesuffix("locality") + "conv.conv"
        table |= {f"{theirs}.0": f"{name}.expand.conv", f"{theirs}.1": f"{name}.expand.norm"}
        position = 3
        if module.config.depthwise:
            table[f"{theirs}.{position}"] = f"{name}.depthwise.conv"
            table[f"{theirs}.{position + 1}"] = f"{name}.depthwise.norm"
            position += 3
        attention = module.config.channel_attention
        if attention != "none":
            if attention == "se":
                table[f"{theirs}.{position}.fc.0"] = f"{name}.channel_attention.fc1"
                table[f"{theirs}.{position}.fc.2"] = f"{name}.channel_attention.fc2"
            else:
                table[f"{theirs}.{position}.conv"] = f"{name}.channel_attention.conv"
            position += 1
        table[f"{theirs}.{position}"] = f"{name}.project.conv"
        table[f"{theirs}.{position + 1}"] = f"{name}.project.norm"
    return table


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
