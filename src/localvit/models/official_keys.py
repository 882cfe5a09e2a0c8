"""Convert between the authors' tensor names and ours: one table for the mechanism, and one per architecture."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from localvit.locality.feed_forward import LocalityFeedForward


@dataclass(frozen=True)
class OfficialKeys:
    """How the authors name the tensors of an architecture, except those of the locality blocks.

    Attributes:
        renames: pairs of the authors' key prefix and ours; the first match applies.
        marker: a key prefix that occurs in every file of the authors, and in none of ours.
        derived: returns the tensors that only the authors' files contain, by their key, because they follow from the
            model.
    """

    renames: tuple[tuple[str, str], ...] = ()
    marker: str | None = None
    derived: Callable[[nn.Module], dict[str, Tensor]] = lambda model: {}


_OFFICIAL_KEYS: dict[type[nn.Module], OfficialKeys] = {}


def register_official_keys(model_class: type[nn.Module], keys: OfficialKeys) -> None:
    """Register how the authors name the tensors of ``model_class``."""
    _OFFICIAL_KEYS[model_class] = keys


def from_official(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename the authors' keys to ours. A state dict with our keys is returned unchanged.

    Args:
        state_dict: tensors by the authors' keys or ours.
        model: the model they belong to; its blocks determine what the authors' layer numbers mean.
    """
    keys = _official_keys(model)
    if not _is_official(state_dict, keys):
        return dict(state_dict)
    architecture, mechanism, derived = dict(keys.renames), official_prefixes(model), keys.derived(model)
    return {
        _renamed(_renamed(key, architecture), mechanism): _as_convolution(key, value)
        for key, value in state_dict.items()
        if key not in derived
    }


def to_official(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename our keys to the authors'. The inverse of :func:`from_official`."""
    keys = _official_keys(model)
    architecture = {ours: theirs for theirs, ours in keys.renames}
    mechanism = {ours: theirs for theirs, ours in official_prefixes(model).items()}
    renamed = {
        _renamed(_renamed(key, mechanism), architecture): _as_linear(key, value) for key, value in state_dict.items()
    }
    return renamed | keys.derived(model)


def _official_keys(model: nn.Module) -> OfficialKeys:
    return next((_OFFICIAL_KEYS[known] for known in type(model).__mro__ if known in _OFFICIAL_KEYS), OfficialKeys())


def _is_official(state_dict: Mapping[str, Tensor], keys: OfficialKeys) -> bool:
    marker = keys.marker
    return any(".conv.conv." in key or (marker is not None and key.startswith(marker)) for key in state_dict)


def _renamed(key: str, prefixes: Mapping[str, str]) -> str:
    prefix = next((prefix for prefix in prefixes if key.startswith(prefix)), None)
    return key if prefix is None else prefixes[prefix] + key.removeprefix(prefix)


# SE consists of linear layers in their files and of 1x1 convolutions in timm, whose weights have two more axes.
def _as_convolution(key: str, value: Tensor) -> Tensor:
    return value[:, :, None, None] if _SE_WEIGHT.search(key) and value.ndim == 2 else value


def _as_linear(key: str, value: Tensor) -> Tensor:
    return value.flatten(1) if ".channel_attention.fc" in key and value.ndim == 4 else value


_SE_WEIGHT = re.compile(r"\.conv\.conv\.\d+\.fc\.\d\.weight$")


def official_prefixes(model: nn.Module) -> dict[str, str]:
    """The authors' key prefix of each layer in the locality blocks of ``model``, mapped to ours.

    In their files, the feed-forward network of a block is the sequence ``conv.conv``. Its numbers depend on which
    optional steps are present.
    """
    table: dict[str, str] = {}
    for name, module in model.named_modules():
        if not isinstance(module, LocalityFeedForward):
            continue
        theirs = name.removesuffix("mlp.locality") + "conv.conv"
        table |= {f"{theirs}.0.": f"{name}.expand.conv.", f"{theirs}.1.": f"{name}.expand.norm."}
        position = 3
        if module.config.depthwise:
            table[f"{theirs}.{position}."] = f"{name}.depthwise.conv."
            table[f"{theirs}.{position + 1}."] = f"{name}.depthwise.norm."
            position += 3
        attention = module.config.channel_attention
        if attention != "none":
            if attention == "se":
                table[f"{theirs}.{position}.fc.0."] = f"{name}.channel_attention.fc1."
                table[f"{theirs}.{position}.fc.2."] = f"{name}.channel_attention.fc2."
            else:
                table[f"{theirs}.{position}.conv."] = f"{name}.channel_attention.conv."
            position += 1
        table[f"{theirs}.{position}."] = f"{name}.project.conv."
        table[f"{theirs}.{position + 1}."] = f"{name}.project.norm."
    return table
