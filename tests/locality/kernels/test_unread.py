"""A fused copy leaves out the last network exactly where no logit depends on it, and nowhere else."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import localvit
from localvit.locality.localize import LocalityMlp
from localvit.models.catalog import PUBLISHED

DISTILLED = "deit_tiny_distilled_patch16_224"


def networks(model: nn.Module) -> list[LocalityMlp]:
    return [module for module in model.modules() if isinstance(module, LocalityMlp)]


@contextmanager
def broken(mlp: LocalityMlp) -> Iterator[None]:
    """While it lasts, the network gives NaN for each patch token."""

    def patch_tokens_are_nan(module: LocalityMlp, args: Any, out_BND: Tensor) -> Tensor:
        broken_BND = out_BND.clone()
        broken_BND.flatten(1, -2)[:, module.locality.num_prefix_tokens :] = torch.nan
        return broken_BND

    hook = mlp.register_forward_hook(patch_tokens_are_nan)
    yield
    hook.remove()


def calls(fused: nn.Module, images_BCHW: Tensor) -> int:
    """How many of its networks a model runs for logits."""
    count = 0

    def counted(*_: Any) -> None:
        nonlocal count
        count += 1

    hooks = [mlp.register_forward_hook(counted) for mlp in networks(fused)]
    with torch.inference_mode():
        fused(images_BCHW)
    for hook in hooks:
        hook.remove()
    return count


@pytest.mark.parametrize("name", [model.name for model in PUBLISHED if model.baseline] + [DISTILLED])
def test_the_last_network_is_left_out_if_and_only_if_logits_do_not_depend_on_it(name: str) -> None:
    model = timm.create_model(name, num_classes=4)
    model = (model if networks(model) else localvit.localize(model)).eval()
    images_BCHW = torch.randn(1, 3, 224, 224)
    with torch.inference_mode(), broken(networks(model)[-1]):
        unread = bool(model(images_BCHW).isfinite().all())
    with torch.inference_mode(), broken(networks(model)[-2]):
        assert not model(images_BCHW).isfinite().any(), "the others are read through attention"
    assert calls(localvit.fuse(model), images_BCHW) == len(networks(model)) - unread


def tiny(**arguments: Any) -> Any:
    model = timm.create_model("deit_tiny_patch16_224", depth=2, embed_dim=24, num_heads=2, num_classes=4, **arguments)
    return localvit.localize(model).eval()


def test_the_last_network_of_a_class_token_model_gets_no_gradient() -> None:
    model = tiny().train()
    model(torch.randn(2, 3, 224, 224)).sum().backward()
    first, last = (
        [weight.grad for weight in network.parameters() if weight.grad is not None] for network in networks(model)
    )
    assert all(gradient.any() for gradient in first)
    assert last
    assert not any(gradient.any() for gradient in last)


def test_the_mean_of_patch_tokens_reads_the_last_network() -> None:
    images_BCHW = torch.randn(1, 3, 224, 224)
    assert calls(localvit.fuse(tiny(global_pool="avg")), images_BCHW) == 2
    fused: Any = localvit.fuse(tiny())
    assert calls(fused, images_BCHW) == 1
    fused.reset_classifier(4, global_pool="avg")
    assert calls(fused, images_BCHW) == 2


def test_features_have_all_networks_even_after_a_call_that_failed() -> None:
    model = tiny()
    fused: Any = localvit.fuse(model)
    images_BCHW = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        expected_BND = model.forward_features(images_BCHW)
        torch.testing.assert_close(fused.forward_features(images_BCHW), expected_BND, rtol=0, atol=1e-5)
        with pytest.raises(AssertionError):
            fused(images_BCHW[..., :100])
        torch.testing.assert_close(fused.forward_features(images_BCHW), expected_BND, rtol=0, atol=1e-5)


def test_threads_that_share_a_model_do_not_disturb_each_other() -> None:
    fused: Any = localvit.fuse(tiny())
    images_BCHW = torch.randn(2, 3, 224, 224)
    in_logits, out_of_features = threading.Event(), threading.Event()

    def wait_in_logits(*_: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            in_logits.set()
            out_of_features.wait(60)

    def compute_logits() -> Tensor:
        with torch.inference_mode():
            logits_BK: Tensor = fused(images_BCHW)
        return logits_BK

    with torch.inference_mode(), ThreadPoolExecutor(1) as other:
        expected_BK, expected_BND = fused(images_BCHW), fused.forward_features(images_BCHW)
        fused.blocks[0].register_forward_hook(wait_in_logits)
        logits = other.submit(compute_logits)
        assert in_logits.wait(60)
        features_BND = fused.forward_features(images_BCHW)
        out_of_features.set()
        torch.testing.assert_close(logits.result(60), expected_BK)
    torch.testing.assert_close(features_BND, expected_BND)


def test_a_model_localized_in_lower_layers_runs_all_its_networks() -> None:
    model = timm.create_model("deit_tiny_patch16_224", depth=3, embed_dim=24, num_heads=2, num_classes=4)
    assert calls(localvit.fuse(localvit.localize(model, layers="low")), torch.randn(1, 3, 224, 224)) == 1


def test_a_model_within_a_model_leaves_it_out_too() -> None:
    images_BCHW = torch.randn(1, 3, 224, 224)
    whole = nn.Sequential(nn.Identity(), tiny())
    fused = localvit.fuse(whole)
    assert calls(fused, images_BCHW) == 1
    with torch.inference_mode():
        torch.testing.assert_close(fused(images_BCHW), whole(images_BCHW), rtol=0, atol=1e-5)
