"""A network in few calls sees every change of its weights and modules, and goes with the network."""

import copy
import gc
import io
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import localvit
from localvit import LocalityConfig, LocalityFeedForward
from localvit.locality.config import Activation
from localvit.locality.kernels import onednn
from localvit.locality.kernels.few_calls import _CHECKED, FewCalls, few_calls
from localvit.locality.kernels.fuse import FusedFeedForward

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of PyTorch is without oneDNN"
)

GRID = (3, 5)
LAYERS = ["expand", "depthwise", "project", "channel_attention.fc1", "channel_attention.fc2"]
PARTS = [*LAYERS, "channel_attention"]


def fused_network(config: LocalityConfig | None = None, prefix: int = 0) -> FusedFeedForward:
    torch.manual_seed(0)
    network = LocalityFeedForward(8, config or LocalityConfig(channel_attention="se"), num_prefix_tokens=prefix)
    for weight in network.parameters():
        nn.init.normal_(weight)
    fused = localvit.fuse(network)
    assert isinstance(fused, FusedFeedForward)
    return fused


def both_forms(network: FusedFeedForward, x_BMD: Tensor) -> tuple[Tensor, Tensor]:
    """The output in few calls, and by the public operators, which run where gradients are recorded.

    The first image goes through alone as well, which another form computes.
    """

    def outputs() -> Tensor:
        return torch.cat([network(x_BMD, GRID), x_BMD[:1] + network.addition(x_BMD[:1], GRID)])

    with torch.inference_mode():
        in_few_calls_BMD = outputs()
    return in_few_calls_BMD.clone(), outputs().detach()


def in_place(network: nn.Module, layer: str, name: str) -> None:
    network.get_submodule(layer).get_parameter(name).mul_(-2)


def by_data(network: nn.Module, layer: str, name: str) -> None:
    weight = network.get_submodule(layer).get_parameter(name)
    weight.data = -2 * weight.data


def by_another(network: nn.Module, layer: str, name: str) -> None:
    owner = network.get_submodule(layer)
    setattr(owner, name, nn.Parameter(-2 * owner.get_parameter(name), requires_grad=False))


def by_state_dict(network: nn.Module, layer: str, name: str) -> None:
    network.load_state_dict(
        {f"{layer}.{name}": -2 * network.state_dict()[f"{layer}.{name}"]}, strict=False, assign=True
    )


@pytest.mark.parametrize("change", [in_place, by_data, by_another, by_state_dict])
@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_changed_weight_counts(layer: str, name: str, change: Callable[[nn.Module, str, str], None]) -> None:
    network, x_BMD = fused_network(), torch.randn(2, 15, 8)
    before_BMD, expected_BMD = both_forms(network, x_BMD)
    torch.testing.assert_close(before_BMD, expected_BMD, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        change(network, layer, name)
    after_BMD, expected_BMD = both_forms(network, x_BMD)
    torch.testing.assert_close(after_BMD, expected_BMD, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before_BMD, after_BMD, rtol=1e-2)


@pytest.mark.parametrize("part", PARTS)
def test_another_module_counts(part: str) -> None:
    network, x_BMD = fused_network(), torch.randn(2, 15, 8)
    before_BMD, _ = both_forms(network, x_BMD)
    other = copy.deepcopy(network.get_submodule(part))
    for weight in other.parameters():
        weight.data.mul_(-2)
    network.set_submodule(part, other)
    after_BMD, expected_BMD = both_forms(network, x_BMD)
    torch.testing.assert_close(after_BMD, expected_BMD, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before_BMD, after_BMD, rtol=1e-2)


def test_another_gate_counts() -> None:
    network, x_BMD = fused_network(), torch.randn(2, 15, 8)
    before_BMD, _ = both_forms(network, x_BMD)
    network.channel_attention.gate = nn.Sigmoid()
    after_BMD, expected_BMD = both_forms(network, x_BMD)
    torch.testing.assert_close(after_BMD, expected_BMD, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before_BMD, after_BMD, rtol=1e-2)


def test_tensors_are_looked_up_once() -> None:
    network, x_BMD = fused_network(), torch.randn(2, 15, 8)
    first = few_calls(network, x_BMD, GRID)
    assert first is not None
    assert few_calls(network, x_BMD, GRID) is first


@pytest.mark.parametrize("config", [LocalityConfig(channel_attention="eca"), LocalityConfig(depthwise=False)])
def test_it_is_for_one_form_of_network(config: LocalityConfig) -> None:
    assert few_calls(fused_network(config), torch.randn(2, 15, 8), GRID) is None


def test_weights_that_do_not_track_changes_are_not_kept() -> None:
    with torch.inference_mode():
        network, x_BMD = fused_network(), torch.randn(2, 15, 8)
        assert few_calls(network, x_BMD, GRID) is None
        before_BMD = network(x_BMD, GRID)
        network.project.weight.mul_(2)
        network.project.bias.mul_(2)
        torch.testing.assert_close(network(x_BMD, GRID) - x_BMD, 2 * (before_BMD - x_BMD), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation", ["relu6", "hswish", "gelu", "silu"])
@pytest.mark.parametrize("prefix", [0, 2])
def test_one_image_gets_what_the_public_operators_compute(prefix: int, activation: Activation) -> None:
    config = LocalityConfig(channel_attention="se", activation=activation)
    network, x_1ND = fused_network(config, prefix), torch.randn(1, prefix + 15, 8)
    given_1ND = x_1ND.clone()
    with torch.inference_mode():
        added_1ND = network.addition(x_1ND, GRID)
        strided_1ND = network.addition(x_1ND.transpose(1, 2).contiguous().transpose(1, 2), GRID)
    expected_1MD = network(x_1ND, GRID)[:, prefix:] - x_1ND[:, prefix:]
    torch.testing.assert_close(added_1ND[:, prefix:], expected_1MD, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(strided_1ND, added_1ND, rtol=1e-4, atol=1e-4)
    assert not added_1ND[:, :prefix].any()
    assert torch.equal(x_1ND, given_1ND)
    with torch.inference_mode(), pytest.raises(ValueError, match="tokens"):
        network.addition(x_1ND[:, 1:], GRID)


def test_the_number_of_threads_may_change() -> None:
    network, x_1MD = fused_network(), torch.randn(1, 15, 8)
    expected_1MD = network(x_1MD, GRID)
    before = torch.get_num_threads()
    try:
        for threads in (1, 3, 4, 5):
            torch.set_num_threads(threads)
            with torch.inference_mode():
                torch.testing.assert_close(network(x_1MD, GRID), expected_1MD, rtol=1e-4, atol=1e-4)
    finally:
        torch.set_num_threads(before)


def test_a_weight_that_is_computed_at_each_use_is_not_kept() -> None:
    class Negated(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return -weight

    network, x_BMD = fused_network(), torch.randn(2, 15, 8)
    assert few_calls(network, x_BMD, GRID) is not None
    parametrize.register_parametrization(network.project, "weight", Negated())
    assert few_calls(network, x_BMD, GRID) is None
    in_few_passes_BMD, expected_BMD = both_forms(network, x_BMD)
    torch.testing.assert_close(in_few_passes_BMD, expected_BMD, rtol=1e-4, atol=1e-4)


def test_a_network_that_ran_is_copied_saved_and_freed() -> None:
    network, x_BMD = fused_network(), torch.randn(2, 15, 8)
    expected_BMD, _ = both_forms(network, x_BMD)
    torch.testing.assert_close(both_forms(copy.deepcopy(network), x_BMD)[0], expected_BMD)
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    torch.testing.assert_close(both_forms(torch.load(file, weights_only=False), x_BMD)[0], expected_BMD)

    gone, packed = weakref.ref(network), len(onednn._PACKED)
    del network
    gc.collect()
    assert gone() is None
    assert len(onednn._PACKED) <= packed - 3


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}
    model = localvit.fuse(timm.create_model("localvit_tiny_patch16_224", num_classes=5, **arguments).eval())
    for name, weight in model.named_parameters():
        if "locality" in name:
            nn.init.normal_(weight, std=0.5)  # so that each matters
    return model


def logits_of_one(model: nn.Module, image_1CHW: Tensor) -> tuple[Tensor, Tensor]:
    """Logits in few calls, and by the public operators."""
    with torch.inference_mode():
        in_few_calls_1K = model(image_1CHW)
    return in_few_calls_1K.clone(), model(image_1CHW).detach()


@pytest.mark.parametrize("change", [in_place, by_data, by_another, by_state_dict])
@pytest.mark.parametrize("layer", ["expand", "depthwise", "channel_attention.fc2"])
def test_a_model_sees_what_changed_before_it_runs(
    layer: str, change: Callable[[nn.Module, str, str], None], model: nn.Module
) -> None:
    image_1CHW = torch.randn(1, 3, 32, 32)
    for _ in range(2):
        before_1K, expected_1K = logits_of_one(model, image_1CHW)
        torch.testing.assert_close(before_1K, expected_1K, rtol=1e-4, atol=1e-5)
    network = model.get_submodule("blocks.1.mlp.locality")
    with torch.no_grad():
        change(network, layer, "weight")
    after_1K, expected_1K = logits_of_one(model, image_1CHW)
    torch.testing.assert_close(after_1K, expected_1K, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before_1K, after_1K, rtol=1e-3)


def test_a_model_checks_its_networks_before_it_runs_and_forgets_them_after(model: nn.Module) -> None:
    image_1CHW, network = torch.randn(1, 3, 32, 32), model.get_submodule("blocks.1.mlp.locality")
    known = []
    model.get_submodule("blocks.1.attn").register_forward_hook(lambda *_: known.append(_CHECKED.get().get(network)))
    logits_of_one(model, image_1CHW)
    logits_of_one(model, image_1CHW)
    with torch.inference_mode():
        model(torch.randn(2, 3, 32, 32))
    first, in_gradients, checked, *others = known
    assert isinstance(checked, FewCalls)
    assert (first, in_gradients, *others) == (None, None, None, None)
    assert not _CHECKED.get()

    model.get_submodule("blocks.2.attn").register_forward_hook(lambda *_: 1 / 0)
    with torch.inference_mode(), pytest.raises(ZeroDivisionError):
        model(image_1CHW)
    assert not _CHECKED.get()


def test_a_copy_of_a_model_checks_its_own_networks(model: nn.Module) -> None:
    image_1CHW = torch.randn(1, 3, 32, 32)
    before_1K, _ = logits_of_one(model, image_1CHW)
    other = copy.deepcopy(model)
    in_place(other.get_submodule("blocks.0.mlp.locality"), "project", "weight")
    after_1K, expected_1K = logits_of_one(other, image_1CHW)
    torch.testing.assert_close(after_1K, expected_1K, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before_1K, after_1K, rtol=1e-3)
    assert torch.equal(logits_of_one(model, image_1CHW)[0], before_1K)
