"""What a variant costs on the machine at hand: images a second and memory, measured side by side.

Everything is measured in processes of its own, by :mod:`localvit.benchmark.measurement`.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from lightning.fabric import Fabric
from timm.optim import create_optimizer_v2
from torch import nn

from localvit.benchmark.measurement import ProcessError, Timed, in_process, peak_memory, take_turns
from localvit.models.costs import count_macs, count_parameters
from localvit.studies.record import Costs
from localvit.system.errors import LocalViTError
from localvit.training import ModelConfig, RunConfig
from localvit.training.initial_model import attention, build_model

_ROUNDS = 5
_SECONDS_A_TURN = 0.1


def count(config: RunConfig, num_classes: int) -> Costs:
    """Parameters and multiply-accumulates of a run's model.

    Raises:
        ValueError: where the model cannot be built.
    """
    model = _build(config, num_classes)
    shape = (config.input.channels, *config.input.image_size)
    return Costs(count_parameters(model), count_macs(model, shape))


def measure(
    configs: Mapping[str, RunConfig],
    num_classes: int,
    *,
    threads: int | None = None,
    batch_size: int | None = None,
    rounds: int = _ROUNDS,
    memory: bool = True,
) -> dict[str, Costs]:
    """Count and measure what runs cost in one process, on images drawn at random.

    Args:
        configs: the runs, by name.
        num_classes: of their heads.
        threads: of the CPU, where the runs do not say; PyTorch's default by default.
        batch_size: images a step; those of each run by default.
        rounds: turns of each, of which the median counts.
        memory: whether to measure memory too, in a further process each.

    Raises:
        LocalViTError: where a measuring process fails, for want of memory for example.
    """
    if batch_size is not None:
        configs = {
            name: replace(config, training=replace(config.training, batch_size=batch_size))
            for name, config in configs.items()
        }
    speeds = _in_process(_speeds, dict(configs), num_classes, threads, rounds)
    measured = {}
    for name, config in configs.items():
        training, inference = speeds[name]
        measured[name] = replace(
            count(config, num_classes),
            training_images_per_second=training,
            inference_images_per_second=inference,
            training_memory=_in_process(_memory, config, num_classes, threads) if memory else None,
        )
    return measured


class _Contestant:
    """A model that can take training steps and classify, as a run does.

    Args:
        config: the run.
        num_classes: of the head.
    """

    def __init__(self, config: RunConfig, num_classes: int) -> None:
        hardware = config.hardware
        fabric = Fabric(accelerator=hardware.accelerator, devices=1, precision=hardware.precision)
        model = _build(config, num_classes)
        if hardware.channels_last:
            model.to(memory_format=torch.channels_last)
        optimizer = create_optimizer_v2(
            model, opt=config.training.optimizer, lr=1e-6, weight_decay=config.training.weight_decay
        )
        if hardware.compile:
            model.compile()
        self.model, self.optimizer = fabric.setup(model, optimizer)
        self.fabric, self.batch_size = fabric, config.training.batch_size
        shape = (self.batch_size, config.input.channels, *config.input.image_size)
        self.images_BCHW = torch.randn(shape, device=fabric.device)
        self.labels_B = torch.randint(num_classes, (self.batch_size,), device=fabric.device)

    def train(self) -> None:
        self.model.train()
        loss = nn.functional.cross_entropy(self.model(self.images_BCHW).float(), self.labels_B)
        self.fabric.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def classify(self) -> None:
        self.model.eval()
        with torch.inference_mode():
            self.model(self.images_BCHW)

    def wait(self) -> None:
        if self.fabric.device.type == "cuda":
            torch.cuda.synchronize()


def _build(config: RunConfig, num_classes: int) -> nn.Module:
    """The model with fresh weights: they cost as much as trained ones, and need not be there yet."""
    model: ModelConfig = replace(config.model, pretrained=False, checkpoint=None)
    with attention(fused=config.hardware.fused_attention):
        return build_model(model, config.input, num_classes=num_classes)


def _speeds(
    configs: dict[str, RunConfig], num_classes: int, threads: int | None, rounds: int
) -> dict[str, tuple[float, float]]:
    timed = {}
    for name, config in configs.items():
        contestant = _Contestant(config, num_classes)
        for kind, step in (("training", contestant.train), ("inference", contestant.classify)):
            prepare = partial(_use_threads, config, threads)
            timed[name, kind] = Timed(step, contestant.batch_size, contestant.wait, prepare)
    medians = {}
    for key, rates in take_turns(timed, rounds, seconds_a_turn=_SECONDS_A_TURN).items():
        if isinstance(rates, Exception):
            raise rates
        medians[key] = statistics.median(rates)
    return {name: (medians[name, "training"], medians[name, "inference"]) for name in configs}


def _memory(config: RunConfig, num_classes: int, threads: int | None) -> int | None:
    """Bytes that a training step takes at its peak."""
    _use_threads(config, threads)
    device = "cuda" if _on_gpu(config) else "cpu"
    return peak_memory(lambda: _Contestant(config, num_classes).train, device=device)


def _on_gpu(config: RunConfig) -> bool:
    accelerator = config.hardware.accelerator
    return accelerator in ("cuda", "gpu") or (accelerator == "auto" and torch.cuda.is_available())


def _use_threads(config: RunConfig, threads: int | None) -> None:
    if (number := config.hardware.threads or threads) is not None:
        torch.set_num_threads(number)


def _in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return in_process(function, *arguments)
    except ProcessError as error:
        raise LocalViTError(f"the costs cannot be measured: {error}") from error
