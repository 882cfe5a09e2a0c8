"""A locality feed-forward network that trains with the Triton kernel takes the step of one that does not."""

import copy
import importlib
from collections.abc import Iterator

import pytest
import timm
import torch
from torch import nn

import localvit
from localvit import LocalityConfig, LocalityFeedForward
from localvit.locality.kernels.gpu import depthwise, device
from localvit.locality.kernels.gpu.form import triton_form


@pytest.fixture
def interpreted() -> Iterator[None]:
    """The kernels in Triton's interpreter, where there is no GPU; that is chosen where they are decorated."""
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for module in (device, depthwise):
            importlib.reload(module)
        yield
    for module in (device, depthwise):
        importlib.reload(module)


@pytest.mark.parametrize(
    "config", [LocalityConfig(), LocalityConfig(channel_attention="se"), LocalityConfig(permuted=True)], ids=str
)
def test_the_step_is_the_same(config: LocalityConfig, interpreted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    place = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    plain = LocalityFeedForward(8, config).to(place).train()
    faster = localvit.use_triton(copy.deepcopy(plain))
    calls = []
    kernel = depthwise.norm_act_depthwise
    monkeypatch.setattr(depthwise, "norm_act_depthwise", lambda *given: calls.append(given) or kernel(*given))  # type: ignore[func-returns-value]
    x_BND = torch.randn(3, 20, 8, device=place)
    steps = []
    for model in (plain, faster):
        tokens_BND = x_BND.clone().requires_grad_()
        out_BND = model(tokens_BND, (4, 5))
        (out_BND * torch.linspace(-1, 1, out_BND.numel(), device=place).view_as(out_BND)).sum().backward()
        assert tokens_BND.grad is not None
        gradients = [parameter.grad for parameter in model.parameters()]
        steps.append([out_BND, tokens_BND.grad, *gradients, *model.buffers()])
    assert len(calls) == 1
    for ours, theirs in zip(*steps, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_where_it_does_not_fit_the_plain_operations_run() -> None:
    pytest.importorskip("triton")
    model = localvit.use_triton(timm.create_model("localvit_tiny_patch16_224", depth=1, img_size=32, num_classes=3))
    feed_forwards = [module for module in model.modules() if isinstance(module, LocalityFeedForward)]
    assert all(module.fast_form is triton_form for module in feed_forwards)
    model.train()(torch.randn(2, 3, 32, 32)).sum().backward()
    localvit.use_triton(model, enabled=False)
    assert not any(module.fast_form is triton_form for module in feed_forwards)


def test_a_model_without_locality_has_nothing_to_change() -> None:
    pytest.importorskip("triton")
    model = nn.Linear(2, 2)
    assert localvit.use_triton(model) is model
