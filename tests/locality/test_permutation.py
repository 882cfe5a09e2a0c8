"""The control "permuted grid" against a plain formula in float64: permute tokens, convolve, restore their order."""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

import localvit
from localvit import LocalityConfig, LocalityFeedForward
from localvit.locality.hidden import HiddenLocality
from localvit.locality.kernels import onednn
from localvit.locality.localize import localizations
from localvit.locality.permutation import permute, restore
from localvit.models.costs import count_macs, count_parameters

PERMUTED = LocalityConfig(permuted=True)
GRID = (5, 3)


def order_of(tokens: int) -> Tensor:
    """Place of each token after the permutation, found by permuting numbers."""
    order: Tensor = permute(torch.arange(tokens)[None, :, None])[0, :, 0]
    return order


def convolved(conv: Any, image_BEHW: Tensor) -> Tensor:
    """A convolution of the permuted map: token by token to its place, and from there back."""
    _, hidden, height, width = image_BEHW.shape
    plain = nn.Conv2d(hidden, hidden, conv.kernel_size, padding=conv.padding, groups=hidden, bias=False)
    plain.weight = conv.weight
    places = list(itertools.product(range(height), range(width)))
    pairs = [(places[place], places[token]) for place, token in enumerate(order_of(height * width).tolist())]
    shuffled_BEHW, out_BEHW = torch.empty_like(image_BEHW), torch.empty_like(image_BEHW)
    for (to_row, to_column), (row, column) in pairs:
        shuffled_BEHW[:, :, to_row, to_column] = image_BEHW[:, :, row, column]
    mixed_BEHW: Tensor = plain(shuffled_BEHW)
    for (to_row, to_column), (row, column) in pairs:
        out_BEHW[:, :, row, column] = mixed_BEHW[:, :, to_row, to_column]
    return out_BEHW


def image_of(x_BND: Tensor, prefix: int) -> Tensor:
    image_BHWD: Tensor = x_BND[:, prefix:].unflatten(1, GRID)
    return image_BHWD.permute(0, 3, 1, 2)


def tokens_of(image_BDHW: Tensor) -> Tensor:
    return image_BDHW.flatten(2).transpose(1, 2)


def randomized(module: nn.Module) -> Any:
    """In float64 and evaluation mode, with statistics and affine parameters that a mistake would show."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.1 if tensor.ndim == 1 else torch.randn_like(tensor) * 0.3)
    return module.double().eval()


@pytest.mark.parametrize("attention", ["none", "se", "eca"])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_the_feed_forward_network_is_the_plain_formula(attention: Any, kernel_size: int) -> None:
    config = LocalityConfig(permuted=True, kernel_size=kernel_size, channel_attention=attention)
    block = randomized(LocalityFeedForward(8, config, num_prefix_tokens=2))
    x_BND = torch.randn(2, 2 + 15, 8, dtype=torch.float64)
    hidden_BEHW = block.expand(image_of(x_BND, 2))
    hidden_BEHW = block.depthwise.act(block.depthwise.norm(convolved(block.depthwise.conv, hidden_BEHW)))
    expected_BMD = x_BND[:, 2:] + tokens_of(block.project(block.channel_attention(hidden_BEHW)))
    got_BND = block(x_BND, GRID)
    torch.testing.assert_close(got_BND[:, 2:], expected_BMD, rtol=0, atol=1e-12)
    assert torch.equal(got_BND[:, :2], x_BND[:, :2])


@pytest.mark.parametrize("attention", ["none", "eca"])
def test_hidden_locality_is_the_plain_formula_fused_too(attention: Any) -> None:
    hidden = randomized(
        HiddenLocality(8, LocalityConfig(permuted=True, channel_attention=attention), num_prefix_tokens=1)
    )
    x_BNE = torch.randn(2, 1 + 15, 8, dtype=torch.float64)
    mixed_BEHW = hidden.channel_attention(convolved(hidden.depthwise, image_of(x_BNE, 1)))
    expected_BNE = torch.cat([x_BNE[:, :1], x_BNE[:, 1:] + tokens_of(mixed_BEHW)], dim=1)
    for form in (hidden, localvit.fuse(hidden)):
        torch.testing.assert_close(form(x_BNE, GRID), expected_BNE, rtol=0, atol=1e-12)


def stepped(model: Any, x_BND: Tensor) -> list[Tensor]:
    """Output, gradients and buffers of one training step."""
    x_BND = x_BND.clone().requires_grad_()
    out_BND = model(x_BND, GRID)
    (out_BND * torch.linspace(-1, 2, out_BND.numel(), dtype=out_BND.dtype).view_as(out_BND)).sum().backward()
    assert x_BND.grad is not None
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    return [out_BND.detach(), x_BND.grad, *gradients]


@pytest.mark.slow
def test_few_passes_and_compiled_training_take_the_same_step() -> None:
    torch.manual_seed(0)
    model = LocalityFeedForward(8, LocalityConfig(permuted=True, channel_attention="eca"), num_prefix_tokens=1)
    model.double().train()
    x_BND = torch.randn(3, 16, 8, dtype=torch.float64)
    expected = stepped(model, x_BND)
    torch.compiler.reset()
    compiled = stepped(torch.compile(model, fullgraph=True), x_BND)
    few_passes = stepped(localvit.save_memory(model), x_BND)
    for plain, ours, other in zip(expected, compiled, few_passes, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(other, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_fused_copy_gives_the_same(compiled: bool) -> None:
    model = randomized(LocalityFeedForward(8, LocalityConfig(permuted=True, channel_attention="se"))).float()
    fused = localvit.fuse(model)
    torch.compiler.reset()
    run = torch.compile(fused, fullgraph=True) if compiled else fused
    x_BND = torch.randn(3, 15, 8)
    with torch.no_grad():
        assert onednn.fits(x_BND, "hswish") == bool(onednn._DTYPES)
        torch.testing.assert_close(run(x_BND, GRID), model(x_BND, GRID), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(localvit.fuse(model.double())(x_BND.double(), GRID), model(x_BND.double(), GRID))


def test_exported_with_a_dynamic_batch_it_gives_the_same() -> None:
    model: Any = localvit.localize(timm.create_model("vit_tiny_patch16_224", depth=1, img_size=64), PERMUTED).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (torch.randn(2, 3, 64, 64),), dynamic_shapes=({0: batch},)).module()
    images = torch.randn(5, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(exported(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["replace", "residual"])
def test_gradient_checkpointing_changes_no_gradient(mode: Any) -> None:
    gradients = []
    for enable in (False, True):
        torch.manual_seed(0)
        body = timm.create_model(
            "deit_tiny_patch16_224", img_size=(32, 48), patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5
        )
        model: Any = localvit.localize(body, PERMUTED, mode=mode).double().train()
        model.set_grad_checkpointing(enable)
        model(torch.randn(2, 3, 32, 48, dtype=torch.float64)).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "swin_tiny_patch4_window7_224", "hiera_tiny_224"])
def test_registers_windows_and_other_token_orders_train(name: str) -> None:
    arguments: dict[str, Any] = {"img_size": 56, "depth": 2} if name.startswith("vit") else {}
    side = arguments.get("img_size", 224)
    model = timm.create_model(name, num_classes=5, **arguments)
    parameters, macs = count_parameters(model), count_macs(model, (3, side, side))
    model = localvit.localize(model, PERMUTED, mode="residual").eval()
    assert count_parameters(model) > parameters
    assert count_macs(model, (3, side, side)) > macs
    images = torch.randn(1, 3, side, side)
    model(images).sum().backward()
    convolutions = [module.depthwise for module in model.modules() if isinstance(module, HiddenLocality)]
    assert all(conv.weight.grad is not None and conv.weight.grad.isfinite().all() for conv in convolutions)


def test_parameters_and_costs_are_those_without_permutation() -> None:
    plain, permuted = (
        localvit.localize(timm.create_model("vit_tiny_patch16_224", depth=2), LocalityConfig(permuted=permuted))
        for permuted in (False, True)
    )
    assert {key: value.shape for key, value in permuted.state_dict().items()} == {
        key: value.shape for key, value in plain.state_dict().items()
    }
    assert count_parameters(permuted) == count_parameters(plain)
    assert count_macs(permuted, (3, 224, 224)) == count_macs(plain, (3, 224, 224))


def test_a_kernel_of_one_token_does_not_notice() -> None:
    plain = randomized(LocalityFeedForward(8, LocalityConfig(kernel_size=1)))
    permuted = LocalityFeedForward(8, LocalityConfig(kernel_size=1, permuted=True)).double().eval()
    permuted.load_state_dict(plain.state_dict())
    x_BND = torch.randn(2, 15, 8, dtype=torch.float64)
    torch.testing.assert_close(permuted(x_BND, GRID), plain(x_BND, GRID), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("grid", [(14, 14), (8, 8), (7, 7), (56, 56), (12, 20)])
def test_as_many_neighbors_stay_neighbors_as_by_chance(grid: tuple[int, int]) -> None:
    height, width = grid
    place_of = {token: divmod(place, width) for place, token in enumerate(order_of(height * width).tolist())}

    def near(one: tuple[int, int], other: tuple[int, int]) -> bool:
        return max(abs(one[0] - other[0]), abs(one[1] - other[1])) == 1

    tokens = list(itertools.product(range(height), range(width)))
    pairs = [
        (row * width + column, (row + down) * width + column + right)
        for row, column in tokens
        for down, right in ((0, 1), (1, -1), (1, 0), (1, 1))
        if row + down < height and 0 <= column + right < width
    ]
    stayed = sum(near(place_of[one], place_of[other]) for one, other in pairs)
    chance = len(pairs) / (len(tokens) * (len(tokens) - 1) / 2)
    assert abs(stayed - len(pairs) * chance) < 4 * (len(pairs) * chance) ** 0.5


def test_the_order_is_the_same_everywhere() -> None:
    """Written down, so that another version of a library or another machine cannot change it unnoticed."""
    assert order_of(9).tolist() == [5, 2, 8, 7, 3, 4, 0, 6, 1]
    digest = hashlib.sha256(b"".join(order_of(tokens).numpy().astype("<i8").tobytes() for tokens in range(1, 300)))
    assert digest.hexdigest() == "89650226c0bebbd7ece09532aa2a8a289e88560ea4d7514572e23d9592f1cfe2"
    x_BMC = torch.randn(2, 196, 3)
    assert torch.equal(restore(permute(x_BMC)), x_BMC)
    assert sorted(order_of(196).tolist()) == list(range(196))


def test_the_operation_keeps_what_it_promises_to_the_compiler() -> None:
    x_BMC = torch.randn(2, 6, 3, dtype=torch.float64)[:, 1:].requires_grad_()
    for back in (False, True):
        torch.library.opcheck(torch.ops.localvit.permute_tokens.default, (x_BMC, back))
    assert torch.autograd.gradcheck(permute, (x_BMC,))
    assert torch.autograd.gradgradcheck(restore, (x_BMC,))


def test_a_first_call_in_inference_mode_leaves_training_alone() -> None:
    tokens = 1009  # a number of tokens that no other test uses
    with torch.inference_mode():
        permute(torch.zeros(1, tokens, 1))
    x_BMC = torch.randn(1, tokens, 1, requires_grad=True)
    permute(x_BMC).square().sum().backward()
    torch.testing.assert_close(x_BMC.grad, 2 * x_BMC.detach())


def test_without_the_depthwise_step_there_is_nothing_to_permute() -> None:
    with pytest.raises(ValueError, match=r"permuted is True and depthwise is False; only the depth-wise convolution"):
        LocalityConfig(permuted=True, depthwise=False)


def test_files_carry_the_permutation_and_older_files_have_none(tmp_path: Path) -> None:
    def body() -> nn.Module:
        return timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=3)

    path = tmp_path / "model.safetensors"
    localvit.save_checkpoint(localvit.localize(body(), PERMUTED), path)
    fresh = body()
    localvit.load_checkpoint(fresh, path)
    assert localizations(fresh)[0].config == PERMUTED
    with pytest.raises(ValueError, match=r"localized as .*permuted=True.*localized as .*permuted=False"):
        localvit.load_checkpoint(localvit.localize(body()), path)

    localvit.save_checkpoint(localvit.localize(body()), path)
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    calls = json.loads(metadata["localvit"])
    del calls[0]["config"]["permuted"]
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, {**metadata, "localvit": json.dumps(calls)})
    older = body()
    localvit.load_checkpoint(older, path)
    assert localizations(older)[0].config == LocalityConfig()
