"""Models on the clock: settings, contestants, numbers and what follows from them."""

import dataclasses
import itertools
import json
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from localvit.benchmark import (
    BenchmarkResult,
    Contestant,
    Measurement,
    Setting,
    SettingResult,
    Spread,
    Stepper,
    machine_rate,
    measure,
    memory_ratio,
    ratio,
    run,
)
from localvit.locality.feed_forward import LocalityFeedForward
from localvit.locality.kernels.fuse import fuse
from localvit.system.errors import LocalViTError

pytestmark = pytest.mark.usefixtures("small_matrices")

SMALL = Setting(batch_size=1, image_size=32, threads=1, device="cpu")
HOW: dict[str, Any] = {"rounds": 3, "seconds_a_turn": 0.005}


class Sleeper(nn.Module):
    """Takes so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.linear = nn.Linear(1, 1000)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        time.sleep(self.seconds)
        logits_BK: Tensor = self.linear(images_BCHW.mean((1, 2, 3))[:, None])
        return logits_BK


class Fails(Sleeper):
    def forward(self, images_BCHW: Tensor) -> Tensor:
        raise RuntimeError(f"mat1 and mat2\nshapes cannot be multiplied ({len(images_BCHW)})")


def slow() -> nn.Module:
    return Sleeper(0.006)


def fast() -> nn.Module:
    return Sleeper(0.003)


def fails() -> nn.Module:
    return Fails(0)


class Linear(nn.Module):
    """On 48 numbers an image of 4 x 4: 48 * 10 multiply-accumulates."""

    def __init__(self) -> None:
        super().__init__()
        self.num_classes = 10
        self.linear = nn.Linear(48, 10)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        logits_BK: Tensor = self.linear(images_BCHW.flatten(1))
        return logits_BK


class Wide(nn.Module):
    """Holds 100 MB of weights, and trains them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5000, 5000)
        self.num_classes = 5000

    def forward(self, images_BCHW: Tensor) -> Tensor:
        logits_BK: Tensor = self.linear(images_BCHW.mean((1, 2, 3))[:, None].expand(-1, 5000))
        return logits_BK


def cannot_be_built() -> nn.Module:
    raise ValueError("3 heads do not divide 64 channels")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mode": "train"}, "mode is 'train'; it must be one of inference, training"),
        ({"precision": "fp16"}, "precision is 'fp16'; it must be one of fp32, bf16, bf16-mixed"),
        ({"device": "tpu"}, "device is 'tpu'; it must be one of auto, cpu, cuda"),
        ({"mode": "training", "precision": "bf16"}, "use bf16-mixed or fp32"),
        ({"mode": "training", "fuse": True}, "leave fuse out"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"threads": 0}, "threads is 0; it must be at least 1"),
        ({"image_size": (224, 224, 3)}, "must be height and width in pixels"),
        ({"image_size": 0}, "must be height and width in pixels"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Setting(**given)


def test_a_setting_says_what_it_is() -> None:
    given = Setting("training", "bf16-mixed", compile=True, fused_attention=False, batch_size=8, image_size=(192, 256))
    assert given.words() == "training, bf16-mixed, compiled, attention step by step, batch 8, 192 x 256"
    assert Setting(fuse=True, threads=1, device="cpu").words() == (
        "inference, fp32, eager, fused model, batch 16, 224 x 224, cpu, 1 thread"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_missed() -> None:
    with pytest.raises(LocalViTError, match="use cpu or auto"):
        measure([Contestant("test_vit")], Setting(device="cuda"))


def test_a_model_that_is_not_there_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="localvit_tiny_patch16_224"):
        Contestant("localvit_tini_patch16_224")


def test_contestants_need_names_of_their_own() -> None:
    with pytest.raises(ValueError, match="each needs a name of its own"):
        measure([Contestant("test_vit"), Contestant("test_vit")], SMALL)
    with pytest.raises(ValueError, match="name at least one model"):
        measure([], SMALL)


def test_all_numbers_follow_from_the_rounds(clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # The batch is of four images. The machine slows down by a hundredth with each step, so that rounds differ.
    drift = itertools.count()
    sleep = SimpleNamespace(sleep=lambda seconds: clock.sleep(seconds * (1 + next(drift) / 100)))
    monkeypatch.setitem(Sleeper.forward.__globals__, "time", sleep)
    four = dataclasses.replace(SMALL, batch_size=4)
    found = measure([Contestant(fast), Contestant(slow)], four, rounds=5, seconds_a_turn=0.02)
    baseline, other = found["fast"], found["slow"]
    assert (found.baseline, len(baseline.rates), len(other.rates)) == (baseline, 5, 5)
    assert max(other.rates) <= 4 / 0.006
    speed, against = other.images_per_second, ratio(other, baseline)
    assert speed is not None
    assert against is not None
    assert speed.median == statistics.median(other.rates)
    low, _, high = statistics.quantiles(other.rates, n=4, method="inclusive")
    assert (speed.low, speed.high) == pytest.approx((low, high))
    assert (speed.minimum, speed.maximum) == (min(other.rates), max(other.rates))
    assert speed.relative == pytest.approx((high - low) / statistics.median(other.rates))
    paired = [mine / its for mine, its in zip(other.rates, baseline.rates, strict=True)]
    assert against == Spread.of(paired)
    assert against.median == pytest.approx(statistics.median(paired))
    assert 0.4 < against.median < 0.6


def test_a_ratio_is_paired_by_round() -> None:
    # The machine slowed down by ten in the second round, for both.
    baseline = Measurement("a", SMALL, (100.0, 10.0, 100.0))
    other = Measurement("b", SMALL, (50.0, 5.0, 51.0))
    assert ratio(other, baseline) == Spread(0.5, 0.5, 0.505, 0.5, 0.51)
    assert ratio(Measurement("c", SMALL, error="it fails"), baseline) is None


def test_one_that_fails_is_reported_and_the_others_are_measured() -> None:
    found = measure([Contestant(fails), Contestant(fast)], SMALL, **HOW, memory=True)
    failed, other = found.measurements
    assert failed.error == "RuntimeError: mat1 and mat2 shapes cannot be multiplied (1)"
    assert (failed.rates, failed.images_per_second, failed.memory) == ((), None, None)
    assert failed.parameters == 2000
    assert len(other.rates) == 3
    assert other.memory is not None


def test_one_that_cannot_be_built_is_reported() -> None:
    failed, other = measure([Contestant(cannot_be_built), Contestant(fast)], SMALL, **HOW).measurements
    assert failed.error == "ValueError: 3 heads do not divide 64 channels"
    assert failed.parameters is None
    assert len(other.rates) == 3


def test_memory_is_that_of_weights_optimizer_and_gradients() -> None:
    training = dataclasses.replace(SMALL, mode="training", image_size=4)
    found = measure([Contestant(Wide)], training, rounds=0, memory=True)
    assert found.baseline.rates == ()
    assert found.baseline.memory is not None
    # Weights, gradients and two moments; what the optimizer works out on the way takes two more.
    each = 100_000_000
    assert 4 * each < found.baseline.memory < 7 * each


def test_a_memory_that_cannot_be_measured_says_why() -> None:
    found = measure([Contestant(lambda: Sleeper(0), "unnamed")], SMALL, rounds=1, seconds_a_turn=0, memory=True)
    assert found.baseline.error is None
    assert found.baseline.memory_error is not None
    assert "lambda" in found.baseline.memory_error


def test_utilisation_is_operations_over_those_of_the_machine() -> None:
    stepper = Stepper(Contestant(Linear), Setting(image_size=4, batch_size=2, device="cpu"))
    assert (stepper.parameters, stepper.macs) == (490, 480)
    inference = Measurement("linear", Setting(), (10.0, 30.0, 20.0), macs=480)
    assert inference.utilisation(2 * 480 * 20 * 4) == pytest.approx(0.25)
    training = dataclasses.replace(inference, setting=Setting("training"))
    assert training.utilisation(2 * 480 * 20 * 4) == pytest.approx(0.75)
    assert inference.utilisation(None) is None


@pytest.mark.usefixtures("processor_time")
def test_the_machines_rate_is_that_of_the_fastest_product_of_matrices() -> None:
    side = 512
    a_NN, b_NN = torch.randn(2, side, side)
    weight = torch.randn(side, side, 1, 1)
    image = torch.randn(1, side, 16, side // 16).to(memory_format=torch.channels_last)
    with SMALL.its_threads():
        seconds = []
        products: list[Callable[[], Tensor]] = [lambda: a_NN @ b_NN, lambda: functional.conv2d(image, weight)]
        for product in 20 * products:
            start = time.process_time()
            product()
            seconds.append(time.process_time() - start)
    assert machine_rate(SMALL, rounds=3, side=side) == pytest.approx(2 * side**3 / min(seconds), rel=0.7)


def test_threads_are_as_they_were_afterwards() -> None:
    before = torch.get_num_threads()
    measure([Contestant("test_vit")], dataclasses.replace(SMALL, threads=before + 1), rounds=1, seconds_a_turn=0)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-mixed"])
def test_inference_runs_the_model_in_its_precision(precision: Any) -> None:
    stepper = Stepper(Contestant("test_vit"), dataclasses.replace(SMALL, precision=precision))
    dtype = {parameter.dtype for parameter in stepper.model.parameters()}
    assert dtype == {torch.bfloat16 if precision == "bf16" else torch.float32}
    logits_BK = stepper.step()
    assert isinstance(logits_BK, Tensor)
    assert logits_BK.dtype == (torch.float32 if precision == "fp32" else torch.bfloat16)
    assert logits_BK.is_inference()


def test_a_training_step_moves_the_weights_and_leaves_no_gradients() -> None:
    stepper = Stepper(Contestant("test_vit"), dataclasses.replace(SMALL, mode="training"))
    before = [parameter.detach().clone() for parameter in stepper.model.parameters()]
    stepper.step()
    assert all(parameter.grad is None for parameter in stepper.model.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(before, stepper.model.parameters(), strict=True))


def test_a_model_with_locality_is_fused_and_others_are_not() -> None:
    localized = Contestant("localvit_tiny_patch16_224", changes={"fuse": True})
    assert localized.name == "localvit_tiny_patch16_224, fuse True"
    stepper = Stepper(localized, localized.setting(SMALL))
    norms = [module for module in stepper.model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms == []
    assert not any(isinstance(module, LocalityFeedForward) for module in stepper.model.modules())
    plain = localized.build(SMALL)
    assert type(fuse(plain)) is type(stepper.model)
    other = Stepper(Contestant("test_resnet"), dataclasses.replace(SMALL, fuse=True))
    assert any(isinstance(module, nn.BatchNorm2d) for module in other.model.modules())


def test_attention_is_step_by_step_where_asked() -> None:
    for fused in (True, False):
        stepper = Stepper(Contestant("test_vit"), dataclasses.replace(SMALL, fused_attention=fused))
        assert {module.fused_attn for module in stepper.model.modules() if hasattr(module, "fused_attn")} == {fused}


def test_a_compiled_model_is_measured_beside_an_eager_one() -> None:
    contestants = [Contestant(Linear, "eager"), Contestant(Linear, "compiled", {"compile": True})]
    found = measure(contestants, Setting(image_size=4, batch_size=2, device="cpu"), **HOW)
    assert [measurement.error for measurement in found.measurements] == [None, None]
    assert [measurement.setting.compile for measurement in found.measurements] == [False, True]


def test_results_are_the_same_after_a_file() -> None:
    settings = [SMALL, dataclasses.replace(SMALL, precision="bf16")]
    found = run([Contestant(fast), Contestant(fails)], settings, **HOW)
    text = found.to_json()
    assert BenchmarkResult.from_json(text) == found
    values = json.loads(text)
    assert set(found.machine_rates) == {"cpu, fp32, 1 thread", "cpu, bf16, 1 thread"}
    assert {"command", "machine", "versions", "threads", "time", "code"} <= set(values["record"])
    recorded = values["results"][0]["measurements"][0]
    assert recorded["derived"]["images_per_second"]["median"] == np.median(recorded["rates"])
    assert recorded["derived"]["ratio"]["median"] == 1
    assert values["results"][0]["measurements"][1]["derived"]["ratio"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"version": 2}', "version of the benchmark is 2; this localvit reads 1"),
        ('{"version": 1}', "not a benchmark"),
        ("[]", "version"),
    ],
)
def test_another_file_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BenchmarkResult.from_json(text)


def test_memory_ratios_are_known_where_both_memories_are() -> None:
    one, two = Measurement("a", SMALL, memory=200), Measurement("b", SMALL, memory=300)
    assert memory_ratio(two, one) == 1.5
    assert memory_ratio(Measurement("c", SMALL), one) is None
    assert SettingResult(SMALL, (one, two))["b"] is two
    with pytest.raises(KeyError):
        SettingResult(SMALL, (one, two))["c"]
