"""Put the locality mechanism into a vision transformer: which layers get it, and what it replaces or extends.

The model keeps its own code. The MLP of a localized layer is replaced or extended, and receives its token grid from the
place that ``families.py`` names.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor, nn

from localvit.locality.config import Layers, LocalityConfig, Mode
from localvit.locality.families import layout_of
from localvit.locality.feed_forward import GridFeedForward, LocalityFeedForward
from localvit.locality.hidden import HiddenLocality
from localvit.locality.layouts import TokenGrid, TokenLayout


@dataclass(frozen=True)
class Localization:
    """A call of :func:`localize`, recorded in the model and in its files.

    Attributes:
        config: the mechanism.
        layers: indices of the localized layers.
        mode: whether it replaced the MLP branch or was added to it.
    """

    config: LocalityConfig
    layers: tuple[int, ...]
    mode: Mode

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "Localization":
        """The inverse of ``dataclasses.asdict``, for values from a file that anybody may have written.

        Raises:
            ValueError, TypeError, KeyError: for anything else.
        """
        if set(values) != {field.name for field in fields(cls)}:
            raise ValueError(f"a localization has config, layers and mode, not {', '.join(map(str, values)):.200}")
        config, layers, mode = values["config"], values["layers"], values["mode"]
        if mode not in get_args(Mode):
            raise ValueError(f"mode is {mode!r}; it must be one of {', '.join(get_args(Mode))}")
        if not all(type(index) is int for index in layers):
            raise TypeError(f"layers is {layers}; it must be a list of whole numbers")
        for field in fields(LocalityConfig):
            expected = (int, float) if isinstance(field.default, float) else type(field.default)
            if field.name in config and not isinstance(config[field.name], expected):
                raise TypeError(f"{field.name} is {config[field.name]!r}; it must be a {type(field.default).__name__}")
        return cls(LocalityConfig(**config), tuple(layers), mode)


def select_layers(layers: Layers, depth: int) -> tuple[int, ...]:
    """Ascending indices of the layers that ``layers`` selects in a transformer of ``depth`` layers.

    Args:
        layers: ``"all"``; a third of the depth, ``"low"``, ``"middle"`` or ``"high"`` (paper, section 4.3), where lower
            thirds get the remainder; or a list of thirds and of indices. Negative indices count from the end.
        depth: number of layers.

    Raises:
        ValueError: for an unknown name, an index out of range, a layer selected twice, or no layer at all.
    """
    selected = [index for part in ([layers] if isinstance(layers, str) else layers) for index in _indices(part, depth)]
    if len(set(selected)) < len(selected):
        raise ValueError(f"layers is {layers!r}; it names a layer twice")
    if not selected:
        raise ValueError(f"layers is {layers!r}; of {depth} layers that selects none")
    return tuple(sorted(selected))


def _indices(layers: str | int, depth: int) -> Sequence[int]:
    if isinstance(layers, str):
        thirds = {"all": (0, 3), "low": (0, 1), "middle": (1, 2), "high": (2, 3)}
        if layers not in thirds:
            raise ValueError(f"layers has {layers!r}; it must be one of {', '.join(thirds)}, or a list of indices")
        first, last = (-(-depth * third // 3) for third in thirds[layers])
        return range(first, last)
    if not -depth <= layers < depth:
        raise ValueError(f"layers has {layers}; a transformer of {depth} layers has {-depth} to {depth - 1}")
    return [layers % depth]


def localize(
    model: nn.Module, config: LocalityConfig | None = None, *, layers: Layers = "all", mode: Mode = "replace"
) -> nn.Module:
    """Put locality into the chosen layers of a transformer.

    With ``mode="replace"``, as in the paper, a freshly initialized locality feed-forward network replaces the MLP
    branch of a layer, including its norm, layer scale and stochastic depth. The attention branch keeps its own. With
    ``mode="residual"``, for pretrained models, the branch stays, and a depth-wise convolution that starts at zero is
    added to the hidden tokens of its MLP. The localized model then initially computes exactly what the original did.

    Args:
        model: a transformer of a family in ``docs/families.md``; it is changed in place.
        config: the mechanism. Defaults to a 3x3 depth-wise convolution with h-swish and expansion ratio 4. In residual
            mode, the MLP keeps its own expansion ratio and activation.
        layers: the layers, as for :func:`select_layers`. Further calls can localize other layers differently.
        mode: ``"replace"`` or ``"residual"``.

    Returns:
        The model, with timm's interface unchanged.

    Raises:
        ValueError: if the model is not supported, if a layer does not exist or is already localized, or if the
            mechanism cannot be built for it.
    """
    config = config or LocalityConfig()
    if mode not in ("replace", "residual"):
        raise ValueError(f"mode is {mode!r}; it must be replace or residual")
    if not config.residual:
        raise ValueError("residual is False; the blocks of a transformer add the input themselves, so it must be True")
    if mode == "residual" and not config.depthwise:
        raise ValueError("depthwise is False; mode='residual' adds the depth-wise convolution and nothing else")
    layout = layout_of(model)
    if not isinstance(getattr(model, "patch_drop", None), nn.Identity | None):
        raise ValueError("cannot localize a model with patch_drop_rate > 0: dropped patches leave holes in the grid")

    blocks = list(layout.blocks(model))
    indices = select_layers(layers, len(blocks))
    selected = [blocks[index] for index in indices]
    for index, block in zip(indices, selected, strict=True):
        _require_localizable(block, index, layout)
    build = _replacement if mode == "replace" else _addition
    # Build all before placing the first, so that a failure leaves the model unchanged.
    localities = [
        build(getattr(block, layout.mlp), layout.last, config, layout.num_prefix_tokens(model, block))
        for block in selected
    ]
    grids = layout.watch(model, selected)
    for block, locality, grid in zip(selected, localities, grids, strict=True):
        parameter = next(block.parameters())
        locality.to(device=parameter.device, dtype=parameter.dtype).train(block.training)
        if isinstance(locality, LocalityFeedForward):
            setattr(block, layout.mlp, LocalityMlp(locality, grid))
            _clear_branch(block, layout)
        else:
            owner = _owner(block, layout)
            owner.add_module("locality", locality)
            last = getattr(block, layout.mlp).get_submodule(layout.last)
            last.register_forward_pre_hook(partial(_mix_hidden, owner, grid))
    model.localizations = [*localizations(model), Localization(config, indices, mode)]  # type: ignore[assignment]
    return model


def localizations(model: nn.Module) -> list[Localization]:
    """The calls of :func:`localize` that changed ``model``, in order."""
    return list(getattr(model, "localizations", []))


def layers_left(model: nn.Module) -> list[int]:
    """Indices of the layers that are not localized."""
    changed = {index for call in localizations(model) for index in call.layers}
    return [index for index, _ in enumerate(layout_of(model).blocks(model)) if index not in changed]


class LocalityMlp(nn.Module):
    """A locality feed-forward network in the place of a block's MLP; the block adds the input.

    Args:
        locality: the network.
        token_grid: the grid of the block's tokens.
    """

    def __init__(self, locality: GridFeedForward, token_grid: TokenGrid) -> None:
        super().__init__()
        self.locality = locality
        self.token_grid = token_grid

    def forward(self, x: Tensor, *grid: Any) -> Tensor:
        """Tokens (B, N, D) or a map (B, H, W, D) to what is added to them, which is zero for prefix tokens."""
        return _on_tokens(self.locality.addition, x, self.token_grid)


def _owner(block: nn.Module, layout: TokenLayout) -> nn.Module:
    """The module that gets ``locality`` beside an MLP: the MLP, or its block if the MLP is a sequence."""
    mlp: nn.Module = getattr(block, layout.mlp)
    return block if isinstance(mlp, nn.Sequential) else mlp


def _mix_hidden(
    owner: nn.Module, token_grid: TokenGrid, layer: nn.Module, args: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Forward pre-hook of an MLP's last layer that mixes its hidden tokens with the owner's module ``locality``.

    As a hook it leaves the names of layers, and so the keys of the state dict, unchanged.
    """
    return (_on_tokens(owner.locality, args[0], token_grid), *args[1:])


def _on_tokens(function: Any, x: Tensor, token_grid: TokenGrid) -> Tensor:
    """Call ``function(tokens, grid)`` with tokens in row order, for ``x`` in this order, in another, or as a map."""
    if x.ndim == 4:
        height, width = x.shape[1:3]
        out_BHWD: Tensor = function(x.flatten(1, 2), (height, width)).unflatten(1, (height, width))
        return out_BHWD
    if token_grid.order is None or token_grid.place_in_order is None:
        out_BND: Tensor = function(x, token_grid())
        return out_BND
    ordered_BND: Tensor = function(x[:, token_grid.order.to(x.device)], token_grid())
    return ordered_BND[:, token_grid.place_in_order.to(x.device)]


def _require_localizable(block: nn.Module, index: int, layout: TokenLayout) -> None:
    mlp = getattr(block, layout.mlp, None)
    if isinstance(mlp, LocalityMlp) or any(
        isinstance(getattr(m, "locality", None), HiddenLocality) for m in (mlp, block)
    ):
        raise ValueError(f"layer {index} is already localized; each layer can be localized once")
    if mlp is None or not isinstance(getattr(mlp, layout.last, None), nn.Linear):
        raise ValueError(
            f"layer {index} is a {type(block).__name__} without an MLP that ends in a linear layer {layout.last}, "
            "so there is nothing to localize"
        )


def _replacement(mlp: nn.Module, last_name: str, config: LocalityConfig, prefix: int) -> LocalityFeedForward:
    first = next(module for module in mlp.modules() if isinstance(module, nn.Linear))
    last = mlp.get_submodule(last_name)
    assert isinstance(last, nn.Linear)
    if first.in_features != last.out_features:
        raise ValueError(
            f"an MLP from {first.in_features} to {last.out_features} channels cannot be replaced by a block that "
            "adds its input; choose other layers, or mode='residual'"
        )
    return LocalityFeedForward(first.in_features, config, num_prefix_tokens=prefix)


def _addition(mlp: nn.Module, last_name: str, config: LocalityConfig, prefix: int) -> HiddenLocality:
    last = mlp.get_submodule(last_name)
    assert isinstance(last, nn.Linear)
    return HiddenLocality(last.in_features, config, num_prefix_tokens=prefix)


def _clear_branch(block: nn.Module, layout: TokenLayout) -> None:
    """Remove norm, layer scale and stochastic depth from a block's MLP branch."""
    setattr(block, layout.norm, nn.Identity())
    for name in layout.scale:
        scale = getattr(block, name, None)
        if isinstance(scale, nn.Parameter):
            delattr(block, name)
            block.register_buffer(name, torch.ones_like(scale.data), persistent=False)
        elif isinstance(scale, nn.Module):
            setattr(block, name, nn.Identity())
    drop_path = getattr(block, layout.drop_path, None)
    if not isinstance(drop_path, nn.Identity | None):
        for name in layout.shares_drop_path:
            module = block.get_submodule(name)
            module.add_module("drop_path", copy.deepcopy(drop_path))
            module.register_forward_hook(_drop_output)
    setattr(block, layout.drop_path, nn.Identity())


def _drop_output(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    dropped: Tensor = module.get_submodule("drop_path")(output)
    return dropped
