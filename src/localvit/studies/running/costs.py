"""Counts and measures what the variants of a study cost on this machine: images per second, and memory.

All measurements are made in new processes, by :mod:`localvit.benchmark.measurement`.
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
    """Count the parameters and multiply-accumulates of a run's model.

    Raises:
        ValueError: if the model cannot be built.
    """
    model = _build(config, num_classes)
    shape = (config.input.channels, *config.input.image_size)
    return Costs(count_parameters(model), count_macs(model, shape))


def what_costs(config: RunConfig) -> tuple[object, ...]:
    """The settings that determine speed and memory. A learning rate, for example, does not."""
    training = config.training
    return config.model, config.input, config.hardware, training.batch_size, training.optimizer


def measure(
    configs: Mapping[str, RunConfig],
    num_classes: int,
    *,
    threads: int | None = None,
    batch_size: int | None = None,
    rounds: int = _ROUNDS,
    memory: bool = True,
) -> dict[str, Costs]:
    """Count and measure the costs of runs, on random images.

    All runs take turns in one process, so that a slow moment of the machine affects them alike. Runs with the same
    :func:`what_costs` are measured once.

    Args:
        configs: runs by name.
        num_classes: number of classes.
        threads: CPU threads, for runs that do not set their own. Defaults to PyTorch's choice.
        batch_size: images per step. Defaults to that of each run.
        rounds: turns per run; the result is their median.
        memory: whether to measure memory too, in one more process per run.

    Raises:
        LocalViTError: if a measuring process fails, for example when out of memory.
    """
    if batch_size is not None:
        configs = {
            name: replace(config, training=replace(config.training, batch_size=batch_size))
            for name, config in configs.items()
        }
    groups: dict[str, list[str]] = {}
    for name, config in configs.items():
        groups.setdefault(repr(what_costs(config)), []).append(name)
    distinct = {names[0]: configs[names[0]] for names in groups.values()}
    speeds = _in_process(_speeds, distinct, num_classes, threads, rounds)
    measured: dict[str, Costs] = {}
    for names in groups.values():
        config, (training, inference) = configs[names[0]], speeds[names[0]]
        costs = replace(
            count(config, num_classes),
            training_images_per_second=training,
            inference_images_per_second=inference,
            training_memory=_in_process(_memory, config, num_classes, threads) if memory else None,
        )
        measured |= dict.fromkeys(names, costs)
    return {name: measured[name] for name in configs}


class _Contestant:
    """A model that trains and classifies as a run does."""

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
    """Build the model with random weights, which cost the same as trained ones and need not exist yet."""
    model: ModelConfig = replace(config.model, pretrained=False, checkpoint=None)
    with attention(fused=config.hardware.fused_attention):
        return build_model(model, config.input, num_classes=num_classes)


def _speeds(
    configs: dict[str, RunConfig], num_classes: int, threads: int | None, rounds: int
) -> dict[str, tuple[float, float]]:
    """Training and inference speed of each run in images per second."""
    timed = {}
    for name, config in configs.items():
        contestant = _Contestant(config, num_classes)
        prepare = partial(_use_threads, config, threads)
        for kind, step in (("training", contestant.train), ("inference", contestant.classify)):
            timed[name, kind] = Timed(step, contestant.batch_size, contestant.wait, prepare)
    medians = {}
    for key, rates in take_turns(timed, rounds, seconds_a_turn=_SECONDS_A_TURN).items():
        if isinstance(rates, Exception):
            raise rates
        medians[key] = statistics.median(rates)
    return {name: (medians[name, "training"], medians[name, "inference"]) for name in configs}


def _memory(config: RunConfig, num_classes: int, threads: int | None) -> int | None:
    """Peak memory of a training step in bytes."""
    _use_threads(config, threads)
    accelerator = config.hardware.accelerator
    on_gpu = accelerator in ("cuda", "gpu") or (accelerator == "auto" and torch.cuda.is_available())
    return peak_memory(lambda: _Contestant(config, num_classes).train, device="cuda" if on_gpu else "cpu")


def _use_threads(config: RunConfig, threads: int | None) -> None:
    if (number := config.hardware.threads or threads) is not None:
        torch.set_num_threads(number)


def _in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return in_process(function, *arguments)
    except ProcessError as error:
        raise LocalViTError(f"cannot measure the costs: {error}") from error
