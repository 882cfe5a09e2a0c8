"""A locality feed-forward network with the Triton kernels computes what one without them does."""

import copy
import importlib
from collections.abc import Iterator
from unittest import mock

import pytest
import timm
import torch
from torch import nn

import localvit
from localvit import LocalityConfig, LocalityFeedForward
from localvit.locality.kernels import forms, onednn
from localvit.locality.kernels.gpu import (
    convolution,
    depthwise,
    device,
    form,
    inference,
    launch,
    normalized,
    passes,
)

PLACE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter takes float64; the compiled kernels do not.
EXACT, TOLERANCE = (torch.float32, 1e-4) if torch.cuda.is_available() else (torch.float64, 1e-9)
CONFIGS = [
    LocalityConfig(),
    LocalityConfig(channel_attention="se"),
    LocalityConfig(channel_attention="eca", activation="relu6"),
    LocalityConfig(permuted=True),
]


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kernels in Triton's interpreter, where there is no GPU; that is chosen where they are decorated."""
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        yield
        return
    modules = (device, convolution, passes, launch, normalized, depthwise)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for module in modules:
            importlib.reload(module)
        yield
    for module in modules:
        importlib.reload(module)


def network(config: LocalityConfig) -> LocalityFeedForward:
    """A network whose norms matter."""
    torch.manual_seed(0)
    made = LocalityFeedForward(8, config, num_prefix_tokens=1).to(PLACE).train()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias)
    return made


def step(model: LocalityFeedForward) -> list[torch.Tensor]:
    """Output, all gradients and buffers of a step."""
    generator = torch.Generator().manual_seed(0)
    tokens_BND = torch.randn(3, 21, 8, generator=generator).to(PLACE, model.expand.conv.weight.dtype).requires_grad_()
    out_BND = model(tokens_BND, (4, 5))
    (out_BND * torch.linspace(-1, 1, out_BND.numel(), device=PLACE).view_as(out_BND)).sum().backward()
    assert tokens_BND.grad is not None
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [out_BND.detach(), tokens_BND.grad, *gradients, *model.buffers()]


# On a GPU, PyTorch's own products would have ten bits.
@pytest.fixture(autouse=True)
def exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_the_step_is_the_same(config: LocalityConfig, interpreted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = network(config).to(EXACT)
    faster = copy.deepcopy(plain)
    faster.fast_form = form.triton_form
    localvit.use_triton(plain, enabled=False)
    launched = mock.Mock(wraps=depthwise.launch)
    monkeypatch.setattr(depthwise, "launch", launched)
    for ours, theirs in zip(step(plain), step(faster), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)
    assert launched.call_count == 2, "the convolution, and its gradient"


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_fused_network_computes_the_same(
    config: LocalityConfig, compiled: bool, interpreted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = network(config).eval()
    fused = localvit.fuse(plain)
    monkeypatch.setattr(onednn, "fits", lambda *given: False)
    monkeypatch.setattr(inference, "_on_gpu", lambda x: True)
    launched = mock.Mock(wraps=depthwise.launch)
    monkeypatch.setattr(depthwise, "launch", launched)
    if compiled:
        fused.compile(backend="aot_eager")
    tokens_BND = torch.randn(3, 21, 8, device=PLACE)
    with torch.inference_mode():
        torch.testing.assert_close(fused(tokens_BND, (4, 5)), plain(tokens_BND, (4, 5)), rtol=1e-5, atol=1e-5)
    assert launched.call_count == 1
    tokens_BND.requires_grad_()
    fused(tokens_BND, (4, 5)).sum().backward()
    assert launched.call_count == 1, "the kernel has no gradient, so the plain operations run"
    assert tokens_BND.grad is not None


def test_hooks_are_heard(interpreted: None) -> None:
    model = network(LocalityConfig(channel_attention="se"))
    model.fast_form = form.triton_form
    heard: list[torch.Size] = []
    model.expand.act.register_forward_hook(lambda module, args, output: heard.append(output.shape))
    step(model)
    assert heard == [torch.Size((3, 32, 4, 5))]


def test_where_it_does_not_fit_the_plain_operations_run() -> None:
    pytest.importorskip("triton")
    model = network(LocalityConfig()).double()
    plain = copy.deepcopy(model)
    model.fast_form = form.triton_form
    for ours, theirs in zip(step(model), step(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_the_kernels_can_be_switched_off() -> None:
    model = timm.create_model("localvit_tiny_patch16_224", depth=2, img_size=32, num_classes=3)
    networks = [module for module in model.modules() if isinstance(module, LocalityFeedForward)]
    localvit.use_triton(model, enabled=False)
    assert all(one.fast_form is forms.without_triton for one in networks)
    assert localvit.use_triton(model) is model
    assert all(one.fast_form is forms.faster for one in networks)
