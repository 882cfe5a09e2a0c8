"""Small models for the tests of measures: the models of the paper with few layers, and one made of any branches."""

from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor, nn

from localvit.locality.families import register_layout
from localvit.locality.layouts import TokenLayout, channels_last_grid, grid_from_block

import localvit.models  # noqa: F401, isort: skip  # registers the models of the paper with timm

SIZE = 32
# The nine models of the paper and their baselines, with the layout of the originals and as little else as possible.
_FLAT = {"img_size": SIZE, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
_LOCAL = _FLAT | {"locality": {"se_reduction": 8}}  # the reductions of the paper are wider than these models
_TNT = _FLAT | {"inner_dim": 8, "num_heads_outer": 2, "num_heads_inner": 2}
_TNT = {name: value for name, value in _TNT.items() if name != "num_heads"}
_PVT = {"img_size": 64, "patch_size": 4, "embed_dims": (8, 16, 20, 32), "depths": (1, 1, 1, 2)}
_SWIN = {"img_size": 64, "patch_size": 4, "window_size": 4, "embed_dim": 8, "depths": (2, 2), "num_heads": (2, 2)}
_T2T = {"img_size": SIZE, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "token_dim": 8}
TINY: dict[str, dict[str, Any]] = {
    "deit_tiny_patch16_224": _FLAT,
    "localvit_tiny_patch16_224": _LOCAL,
    "localvit_tiny_se4_patch16_224": _LOCAL,
    "localvit_tiny_relu6_mlp6_patch16_224": _FLAT,
    "deit_small_patch16_224": _FLAT,
    "localvit_small_patch16_224": _LOCAL,
    "t2t_vit_7": _T2T,
    "localvit_t2t_7": _T2T,
    "pvt_tiny": _PVT | {"num_heads": (1, 2, 2, 2)},
    "localvit_pvt_tiny": _PVT | {"num_heads": (1, 2, 2, 2)},
    "tnt_tiny_patch16_224": _TNT,
    "localvit_tnt_tiny_patch16_224": _TNT,
    "tnt_s_legacy_patch16_224": _TNT,
    "localvit_tnt_small_patch16_224": _TNT,
    "swin_tiny_patch4_window7_224": _SWIN,
    "localvit_swin_tiny_patch4_window7_224": _SWIN,
}


def tiny(name: str, **changes: Any) -> Any:
    """A small model of the paper with random weights, in evaluation mode, and double precision."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **(TINY[name] | changes))
    with torch.no_grad():
        for parameter in model.parameters():  # initial weights are so small that all attention would be uniform
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.double().eval()


def images(model: Any, count: int = 2) -> Tensor:
    """Random images of the size that a model of :func:`tiny` takes, in double precision."""
    size = 64 if "Pyramid" in type(model).__name__ or "Swin" in type(model).__name__ else SIZE
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1)).double()


class MixingBlock(nn.Module):
    """A block without attention, whose feed-forward branch is any function of a map (B, D, H, W)."""

    def __init__(self, attend: nn.Module, mix: nn.Module) -> None:
        super().__init__()
        self.attn = attend
        self.norm2 = nn.Identity()
        self.mlp = mix

    def forward(self, x_BHWD: Tensor) -> Tensor:
        """A map (B, H, W, D) to another."""
        x_BHWD = x_BHWD + self.attn(x_BHWD)
        out_BHWD: Tensor = x_BHWD + self.mlp(self.norm2(x_BHWD))
        return out_BHWD


class OnMap(nn.Module):
    """Applies a function of maps (B, D, H, W) to maps (B, H, W, D)."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x_BHWD: Tensor) -> Tensor:
        """Map (B, H, W, D) to map (B, H, W, D)."""
        return self.function(x_BHWD.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Zero(nn.Module):
    """A branch that adds nothing, whatever it is called with, but keeps the graph."""

    def forward(self, x: Tensor, *others: object, **more: object) -> Tensor:
        """Zeros."""
        return 0 * x


class MixingModel(nn.Module):
    """Pixels are tokens, and every layer adds to them what its two branches make of them.

    Args:
        branches: attention branch and feed-forward branch of each layer, functions of maps (B, H, W, D).
    """

    def __init__(self, *branches: tuple[nn.Module, nn.Module]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.blocks = nn.ModuleList(MixingBlock(*pair) for pair in branches)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, C)."""
        x_BHWD = self.scale * images_BCHW.permute(0, 2, 3, 1)
        for block in self.blocks:
            x_BHWD = block(x_BHWD)
        return x_BHWD.mean(dim=(1, 2))


register_layout(MixingModel, TokenLayout(lambda model: model.blocks, grid_from_block(channels_last_grid)))


def convolution(kernel_YX: Tensor, *, skip: bool = True) -> OnMap:
    """A depth-wise convolution with one kernel for all channels; without ``skip``, the input is taken away again."""

    def convolve(x_BDHW: Tensor) -> Tensor:
        weight = kernel_YX.to(x_BDHW).expand(x_BDHW.shape[1], 1, *kernel_YX.shape)
        out_BDHW = nn.functional.conv2d(x_BDHW, weight, padding=len(kernel_YX) // 2, groups=x_BDHW.shape[1])
        return out_BDHW if skip else out_BDHW - x_BDHW

    return OnMap(convolve)
