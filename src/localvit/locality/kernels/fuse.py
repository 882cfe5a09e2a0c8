"""An inference copy of a localized model: batch norms folded into the preceding layers, activations fused.

In evaluation mode a batch norm is one scale and one shift per channel, which the convolution's weights can absorb. The
two 1x1 convolutions become linear layers on tokens.

Shape suffixes: B images, N = P + H * W tokens, M = H * W image tokens, D channels of a token, E hidden channels.
"""

import copy
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from localvit.locality.feed_forward import (
    ACTIVATIONS,
    ConvNormAct,
    GridFeedForward,
    LocalityFeedForward,
    on_image_tokens,
    on_map,
)
from localvit.locality.hidden import HiddenLocality
from localvit.locality.kernels import onednn
from localvit.locality.kernels.attend import gates
from localvit.locality.kernels.few_calls import check_first, checked, few_calls
from localvit.locality.kernels.gpu import inference as gpu
from localvit.locality.kernels.unread import skip_unread


def fuse(model: nn.Module) -> nn.Module:
    """A copy of ``model`` for inference with the same outputs up to rounding, in fewer passes over the hidden map.

    Args:
        model: any model; its locality feed-forward networks and hidden localities are fused, the rest is copied.

    Returns:
        The copy, in evaluation mode and without gradients; keep the original for training. It has the interface of the
        original, can be compiled and exported, and its state dict has different keys. Its logits leave out the last
        block's network where they do not depend on it. On CPUs it caches its weights in
        oneDNN's layout and refreshes the cache when they change. In-place changes of a weight's ``data`` go unnoticed,
        as they do in autograd.
    """
    fused = copy.deepcopy(model).eval().requires_grad_(False)
    for name, module in list(fused.named_modules()):
        if (replacement := _fused(module)) is None:
            continue
        if not name:
            return replacement
        fused.set_submodule(name, replacement)
    check_first(fused, [module for module in fused.modules() if isinstance(module, FusedFeedForward)])
    skip_unread(fused)
    return fused


def _fused(module: nn.Module) -> nn.Module | None:
    """The fused replacement of a module, or None to keep the module."""
    if type(module) is LocalityFeedForward:
        return FusedFeedForward(module)
    if type(module) is HiddenLocality and isinstance(module.channel_attention, nn.Identity):
        return FusedHiddenLocality(module)
    return None


class FusedFeedForward(GridFeedForward):
    """A locality feed-forward network with its norms folded into its layers.

    Args:
        locality: the network, in evaluation mode.
    """

    def __init__(self, locality: LocalityFeedForward) -> None:
        super().__init__(locality.config, locality.num_prefix_tokens)
        self.expand = _linear(locality.expand)
        self.depthwise = _folded(locality.depthwise) if locality.config.depthwise else nn.Identity()
        self.act = ACTIVATIONS[locality.config.activation]()
        self.channel_attention = locality.channel_attention
        self.project = _linear(locality.project)
        self.eval().requires_grad_(False)

    def _mix(self, image_BMD: Tensor, grid: tuple[int, int]) -> Tensor:
        if bound := checked(self, image_BMD):
            return bound(image_BMD, grid)
        if onednn.fits(image_BMD, self.config.activation):
            images = onednn.images_at_a_time(image_BMD, self.project.in_features)
            if len(image_BMD) <= images:
                return self._in_few_passes(image_BMD, grid)
            return torch.cat([self._in_few_passes(part_BMD, grid) for part_BMD in image_BMD.split(images)])
        if gpu.fits(image_BMD, self.depthwise, self.config.activation):
            return self._in_kernels(image_BMD, grid)
        hidden_BME = self.act(self.expand(image_BMD))
        if isinstance(self.depthwise, nn.Conv2d):
            hidden_BME = _tokens(self.act(self.depthwise(_image(hidden_BME, grid))))
        out_BMD: Tensor = self.project(self._attend(hidden_BME))
        return out_BMD

    def _in_few_passes(self, image_BMD: Tensor, grid: tuple[int, int]) -> Tensor:
        if not torch.compiler.is_compiling() and (bound := few_calls(self, image_BMD, grid)):
            return bound(image_BMD, grid)
        if isinstance(self.depthwise, nn.Conv2d):
            hidden_BME = onednn.expand_and_mix(image_BMD, self.expand, self.depthwise, self.config.activation, grid)
        else:
            hidden_BME = onednn.linear(image_BMD, self.expand, self.config.activation)
        return onednn.linear(self._attend(hidden_BME), self.project)

    def _in_kernels(self, image_BMD: Tensor, grid: tuple[int, int]) -> Tensor:
        assert isinstance(self.depthwise, nn.Conv2d)
        hidden_BME, mean_B1E = gpu.expand_and_mix(image_BMD, self.expand, self.depthwise, self.config.activation, grid)
        if not isinstance(self.channel_attention, nn.Identity):
            hidden_BME = gpu.scale(hidden_BME, gates(self.channel_attention, mean_B1E))
        out_BMD: Tensor = self.project(hidden_BME)
        return out_BMD

    def _attend(self, hidden_BME: Tensor) -> Tensor:
        if isinstance(self.channel_attention, nn.Identity):
            return hidden_BME
        # Faster than mean(), several times in half precision.
        mean_B1E = hidden_BME.sum(1, keepdim=True) / hidden_BME.shape[1]
        out_BME: Tensor = hidden_BME.mul_(gates(self.channel_attention, mean_B1E))
        return out_BME


class FusedHiddenLocality(HiddenLocality):
    """A hidden locality whose convolution adds its input through its center tap.

    Args:
        locality: the hidden locality, without channel attention.
    """

    def __init__(self, locality: HiddenLocality) -> None:
        nn.Module.__init__(self)
        self.num_prefix_tokens, self.permuted = locality.num_prefix_tokens, locality.permuted
        self.depthwise = copy.deepcopy(locality.depthwise)
        middle = locality.depthwise.weight.shape[-1] // 2
        self.depthwise.weight.data[..., middle, middle] += 1

    def forward(self, x_BNE: Tensor, grid: tuple[int, int]) -> Tensor:
        """As :meth:`HiddenLocality.forward`."""
        prefix = self.num_prefix_tokens
        mix = partial(on_map, self.depthwise, grid=grid)
        out_BME = on_image_tokens(mix, x_BNE, grid, prefix, permuted=self.permuted)
        return torch.cat([x_BNE[:, :prefix], out_BME], dim=1) if prefix else out_BME


def _image(x_BMC: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens as a channels-last map (B, C, H, W)."""
    x_BHWC: Tensor = x_BMC.unflatten(1, grid)
    return x_BHWC.permute(0, 3, 1, 2)


def _tokens(image_BCHW: Tensor) -> Tensor:
    """A channels-last map as tokens (B, M, C)."""
    return image_BCHW.permute(0, 2, 3, 1).flatten(1, 2)


def _folded(stage: nn.Module) -> nn.Conv2d:
    """A convolution with its batch norm folded in, computed in float64."""
    assert isinstance(stage, ConvNormAct)
    dtype = stage.conv.weight.dtype
    double = copy.deepcopy(stage).double()
    return fuse_conv_bn_eval(double.conv, double.norm).to(dtype)


def _linear(stage: nn.Module) -> nn.Linear:
    """A 1x1 convolution and its batch norm as a linear layer."""
    conv = _folded(stage)
    linear = nn.Linear(conv.in_channels, conv.out_channels, device="meta")
    assert conv.bias is not None
    linear.weight, linear.bias = nn.Parameter(conv.weight.data.flatten(1)), nn.Parameter(conv.bias.data)
    return linear
