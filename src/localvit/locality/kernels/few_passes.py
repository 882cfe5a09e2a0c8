"""Training in few passes over the hidden feature map: store two hidden maps instead of seven, and recompute the rest.

Compiled, each pass becomes one loop, which is faster than the plain modules. Run eagerly, it trades time for memory.

Shape suffixes: B images, D channels of a token, E hidden channels, H x W the grid.
"""

from functools import partial

import torch
from torch import Tensor

from localvit.locality.feed_forward import ConvNormAct, LocalityFeedForward
from localvit.locality.kernels import norm_act
from localvit.locality.kernels.attend import attend
from localvit.locality.kernels.convolve import convolve


def few_passes(network: LocalityFeedForward, image_BDHW: Tensor) -> Tensor:
    """The modules of ``network`` cut where a hidden map is stored: between a convolution and its norm.

    Runs the modules in order if no gradients are recorded, or if a norm or a hook requires it.
    """
    stages = [stage for stage in (network.expand, network.depthwise) if isinstance(stage, ConvNormAct)]
    if not (torch.is_grad_enabled() and all(norm_act.fits(stage.norm, stage.act) for stage in stages)):
        return network.in_order(image_BDHW)
    z_BEHW = convolve(network.expand.conv, image_BDHW)
    if isinstance(network.depthwise, ConvNormAct):
        depthwise = partial(convolve, network.depthwise.conv)
        z_BEHW = norm_act.then(depthwise, z_BEHW, network.expand.norm, network.expand.act)
    attend_and_project = partial(_attend_and_project, network)
    z_BDHW = norm_act.then(attend_and_project, z_BEHW, stages[-1].norm, stages[-1].act)
    out_BDHW: Tensor = network.project.norm(z_BDHW)
    return out_BDHW


def _attend_and_project(network: LocalityFeedForward, image_BEHW: Tensor) -> Tensor:
    return convolve(network.project.conv, attend(network.channel_attention, image_BEHW))
