"""The mechanism against formulas written out with torch.nn.functional, in float64."""

import itertools
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from localvit import LocalityConfig, LocalityFeedForward
from localvit.locality.channel_attention import eca_kernel_size
from localvit.locality.config import Activation, ChannelAttention

PLAIN_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu6": lambda x: x.clamp(0, 6),
    "hswish": lambda x: x * (x + 3).clamp(0, 6) / 6,
    "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)),
    "silu": lambda x: x / (1 + torch.exp(-x)),
}


def randomized(dim: int, config: LocalityConfig, num_prefix_tokens: int = 0) -> LocalityFeedForward:
    """A block in float64 and evaluation mode, with statistics and affine parameters that a mistake would show."""
    torch.manual_seed(0)
    block = LocalityFeedForward(dim, config, num_prefix_tokens=num_prefix_tokens).double().eval()
    with torch.no_grad():
        for tensor in [*block.parameters(), *block.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.1 if tensor.ndim == 1 else torch.randn_like(tensor) * 0.3)
    return block


def plain_branch(weights: dict[str, Tensor], image: Tensor, config: LocalityConfig) -> Tensor:
    """Steps 1 to 4 of the block as the paper states them, one after the other."""
    act = PLAIN_ACTIVATIONS[config.activation]

    def conv_norm(x: Tensor, step: str, groups: int = 1) -> Tensor:
        weight = weights[f"{step}.conv.weight"]
        x = F.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=groups)
        mean, var, scale, shift = (
            weights[f"{step}.norm.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    hidden = act(conv_norm(image, "expand"))
    if config.depthwise:
        hidden = act(conv_norm(hidden, "depthwise", groups=hidden.shape[1]))
    pooled = hidden.mean((2, 3))
    if config.channel_attention == "se":
        first, second = (weights[f"channel_attention.fc{n}.weight"].flatten(1) for n in (1, 2))
        squeezed = (pooled @ first.T + weights["channel_attention.fc1.bias"]).clamp(min=0)
        gate = (squeezed @ second.T + weights["channel_attention.fc2.bias"] + 3).clamp(0, 6) / 6
        hidden = hidden * gate[:, :, None, None]
    elif config.channel_attention != "none":
        kernel = weights["channel_attention.conv.weight"]
        scores = F.conv1d(pooled[:, None], kernel, padding=kernel.shape[-1] // 2)[:, 0]
        gate = 1 / (1 + torch.exp(-scores)) if config.channel_attention == "eca" else (scores + 3).clamp(0, 6) / 6
        hidden = hidden * gate[:, :, None, None]
    return conv_norm(hidden, "project")


VARIANTS = [
    LocalityConfig(activation=activation, channel_attention=attention, depthwise=depthwise, residual=residual)
    for activation, attention, depthwise, residual in itertools.product(
        get_args(Activation), get_args(ChannelAttention), [True, False], [True, False]
    )
] + [LocalityConfig(kernel_size=5), LocalityConfig(expansion_ratio=2.5), LocalityConfig(kernel_size=1)]


@pytest.mark.parametrize("config", VARIANTS, ids=str)
def test_every_variant_equals_the_plain_formula(config: LocalityConfig) -> None:
    block = randomized(8, config, num_prefix_tokens=1)
    tokens = torch.randn(2, 1 + 5 * 3, 8, dtype=torch.float64)
    image = torch.stack([tokens[:, 1 + 3 * row : 4 + 3 * row].transpose(1, 2) for row in range(5)], dim=2)

    expected = plain_branch(block.state_dict(), image, config)
    if config.residual:
        expected = image + expected
    got = block(tokens, (5, 3))

    torch.testing.assert_close(got[:, 1:], expected.flatten(2).transpose(1, 2), rtol=0, atol=1e-12)
    assert torch.equal(got[:, :1], tokens[:, :1])


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    prefix=st.sampled_from([0, 1, 2, 5]),
    kernel_size=st.sampled_from([1, 3, 5, 7]),
    batch=st.integers(1, 3),
)
def test_a_token_hears_its_window_and_nothing_else(
    height: int, width: int, prefix: int, kernel_size: int, batch: int
) -> None:
    block = randomized(4, LocalityConfig(kernel_size=kernel_size, expansion_ratio=2), prefix)
    tokens = torch.randn(batch, prefix + height * width, 4, dtype=torch.float64)
    row, column = height // 2, width // 2
    changed = tokens.clone()
    changed[:, prefix + row * width + column] += 1

    before, after = block(tokens, (height, width)), block(changed, (height, width))

    assert after.shape == tokens.shape
    assert torch.equal(after[:, :prefix], tokens[:, :prefix])
    differs = (before != after).any(-1)[:, prefix:].view(batch, height, width)
    reach = kernel_size // 2
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1] = True
    assert not differs[:, ~inside].any()
    assert differs[:, row, column].all()


def test_without_the_depthwise_step_a_token_hears_only_itself() -> None:
    block = randomized(4, LocalityConfig(depthwise=False))
    tokens = torch.randn(1, 9, 4, dtype=torch.float64)
    changed = tokens.clone()
    changed[:, 4] += 1
    assert (block(tokens, (3, 3)) != block(changed, (3, 3))).any(-1).nonzero()[:, 1].tolist() == [4]


@pytest.mark.parametrize(("channels", "size"), [(1, 1), (2, 1), (8, 3), (64, 3), (192, 5), (768, 5), (2048, 7)])
def test_eca_kernel_is_the_odd_size_the_authors_use(channels: int, size: int) -> None:
    # By hand: t = int((log2 c + 1) / 2), made odd by adding one: 768 -> int(5.29) = 5; 192 -> int(4.29) = 4 -> 5.
    assert eca_kernel_size(channels) == size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 4}, r"kernel_size is 4; it must be odd"),
        ({"kernel_size": -1}, r"kernel_size is -1; it must be odd"),
        ({"activation": "relu"}, r"activation is 'relu'; it must be one of relu6, hswish, gelu, silu"),
        ({"channel_attention": "cbam"}, r"channel_attention is 'cbam'; it must be one of none, se, eca, ecah"),
        ({"expansion_ratio": 0}, r"expansion_ratio is 0; it must be a positive number"),
        ({"expansion_ratio": float("nan")}, r"expansion_ratio is nan"),
        ({"se_reduction": 0}, r"se_reduction is 0; it must be a whole number of at least 1"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_allowed(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LocalityConfig(**arguments)  # type: ignore[arg-type]


def test_a_reduction_that_leaves_no_bottleneck_is_refused() -> None:
    with pytest.raises(ValueError, match=r"se_reduction 33 of 32 hidden channels leaves a bottleneck of width 0"):
        LocalityFeedForward(8, LocalityConfig(channel_attention="se", se_reduction=33))


def test_an_expansion_that_leaves_no_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expansion_ratio 0\.1 of dim 8 leaves 0 hidden channels"):
        LocalityFeedForward(8, LocalityConfig(expansion_ratio=0.1))


def test_a_negative_prefix_is_refused() -> None:
    with pytest.raises(ValueError, match=r"num_prefix_tokens is -1"):
        LocalityFeedForward(8, num_prefix_tokens=-1)


@pytest.mark.parametrize("tokens", [16, 18])
def test_tokens_that_do_not_fill_the_grid_are_refused(tokens: int) -> None:
    block = LocalityFeedForward(8, num_prefix_tokens=1)
    with pytest.raises(ValueError, match=rf"got {tokens} tokens; num_prefix_tokens=1 and a grid of 4 x 4 make 17"):
        block(torch.zeros(1, tokens, 8), (4, 4))


def test_squeeze_excite_starts_as_the_papers_linear_layers() -> None:
    torch.manual_seed(0)
    attention = LocalityFeedForward(192, LocalityConfig(channel_attention="se", se_reduction=4)).channel_attention
    for layer in (attention.get_submodule("fc1"), attention.get_submodule("fc2")):
        assert isinstance(layer, torch.nn.Conv2d)
        assert layer.bias is not None
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert layer.weight.abs().max() <= 2
        assert not layer.bias.any()
