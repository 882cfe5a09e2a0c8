"""Contestants in one setting, or in several: they take turns in this process, and have their memory measured alone."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch._dynamo.config as compiler
from rich.console import Console

from localvit.benchmark.contestant import Contestant, Stepper
from localvit.benchmark.measurement import ProcessError, take_turns
from localvit.benchmark.memory import contestant_memory
from localvit.benchmark.rate import machine_rate
from localvit.benchmark.record import provenance
from localvit.benchmark.result import BenchmarkResult, Measurement, SettingResult
from localvit.benchmark.setting import ROUNDS, Setting
from localvit.system.progress import progress_bar
from localvit.system.terminal import ERRORS

SECONDS_A_TURN = 0.3
_GRAPHS_A_MODEL = 8  # the compiler keeps that many by default, in all, of models that share a class

Watch = Callable[[str, str], object]


def measure(
    contestants: Sequence[Contestant],
    setting: Setting,
    *,
    rounds: int = ROUNDS,
    seconds_a_turn: float = SECONDS_A_TURN,
    memory: bool = False,
    watch: Watch = lambda name, news: None,
) -> SettingResult:
    """Measure contestants side by side.

    After a warm-up, with compiling, each takes a turn in every round, in an order that rotates. One that fails is told
    so in its measurement, and the others go on.

    Args:
        contestants: the first is the baseline.
        setting: how all of them are run, but for what they change.
        rounds: turns of each; 0 for memory alone.
        seconds_a_turn: about how long a turn is; at least one step.
        memory: whether to measure the peak memory of a step too, in a further process each.
        watch: is told of every piece of work: the contestant's name, and what there is to say.

    Raises:
        ValueError: for no contestants, two of the same name, or changes that a setting does not allow.
        LocalViTError: where the setting wants a GPU and there is none.
    """
    settings = _settings(contestants, setting)
    with setting.its_threads(), _compiler_for(len(contestants)):
        measurements = _take_turns(contestants, settings, rounds, seconds_a_turn, watch)
    if memory:
        torch.cuda.empty_cache()  # a GPU has room for the processes that follow
        measurements = [_with_memory(*pair, watch) for pair in zip(measurements, contestants, strict=True)]
    return SettingResult(setting.on_its_device(), tuple(measurements))


def run(contestants: Sequence[Contestant], settings: Iterable[Setting], **how: Any) -> BenchmarkResult:
    """Measure the same contestants in one setting after the other; see :func:`run_each`."""
    return run_each([(contestants, setting) for setting in settings], **how)


def run_each(
    comparisons: Sequence[tuple[Sequence[Contestant], Setting]],
    *,
    rounds: int = ROUNDS,
    seconds_a_turn: float = SECONDS_A_TURN,
    memory: bool = False,
    console: Console = ERRORS,
) -> BenchmarkResult:
    """Measure one comparison after the other, and the machine's own rate.

    Args:
        comparisons: contestants, and the setting that they share.
        rounds: as for :func:`measure`, like what follows.
        seconds_a_turn: about how long a turn is.
        memory: whether to measure memory too.
        console: where progress is shown; where it is no terminal, as a line for each comparison.

    Raises:
        ValueError: as :func:`measure`.
        LocalViTError: as :func:`measure`.
    """
    pieces = [len(contestants) * (bool(rounds) + rounds + memory) for contestants, _ in comparisons]
    results: list[SettingResult] = []
    with progress_bar(console) as progress:
        task = progress.add_task("the machine", total=sum(pieces), figures="")

        def watch(name: str, news: str) -> None:
            progress.update(task, advance=1, figures=f"{name}: {news}")

        rates = _machine_rates(comparisons) if rounds else {}
        for number, (contestants, setting) in enumerate(comparisons, start=1):
            progress.update(task, description=setting.words())
            found = measure(
                contestants, setting, rounds=rounds, seconds_a_turn=seconds_a_turn, memory=memory, watch=watch
            )
            results.append(found)
            progress.update(task, completed=sum(pieces[:number]))
            if not console.is_terminal:
                progress.console.print(f"{number} of {len(pieces)}: {setting.words()}", highlight=False, soft_wrap=True)
    return BenchmarkResult(tuple(results), rates, provenance())


def _machine_rates(comparisons: Sequence[tuple[Sequence[Contestant], Setting]]) -> dict[str, float]:
    """Of every device, number of threads and precision that shares are needed of."""
    settings = [one.setting(shared) for contestants, shared in comparisons for one in contestants]
    return {name: machine_rate(setting) for name, setting in {own.arithmetic: own for own in settings}.items()}


def in_words(error: Exception) -> str:
    """An exception as a line for people."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _settings(contestants: Sequence[Contestant], shared: Setting) -> dict[str, Setting]:
    if not contestants:
        raise ValueError("there are no contestants; name at least one model")
    settings = {one.name: one.setting(shared).on_its_device() for one in contestants}
    if len(settings) < len(contestants):
        names = [one.name for one in contestants]
        raise ValueError(f"the contestants are {', '.join(names)}; each needs a name of its own")
    return settings


def _take_turns(
    contestants: Sequence[Contestant], settings: dict[str, Setting], rounds: int, seconds_a_turn: float, watch: Watch
) -> list[Measurement]:
    steppers: dict[str, Stepper] = {}
    measured = {name: Measurement(name, own) for name, own in settings.items()}
    if not rounds:
        return list(measured.values())
    for contestant in contestants:
        name = contestant.name
        try:
            stepper = steppers[name] = Stepper(contestant, settings[name])
        except Exception as error:
            measured[name] = replace(measured[name], error=in_words(error))
        else:
            measured[name] = replace(measured[name], parameters=stepper.parameters, macs=stepper.macs)
    outcomes = take_turns(
        {name: stepper.timed() for name, stepper in steppers.items()},
        rounds,
        seconds_a_turn=seconds_a_turn,
        watch=lambda name, rate: watch(name, "warm-up" if rate is None else f"{rate:,.0f} images/s"),
    )
    for name, rates in outcomes.items():
        known = {"error": in_words(rates)} if isinstance(rates, Exception) else {"rates": tuple(rates)}
        measured[name] = replace(measured[name], **known)
    return list(measured.values())


def _with_memory(measurement: Measurement, contestant: Contestant, watch: Watch) -> Measurement:
    if measurement.error is not None:
        return measurement
    try:
        found = contestant_memory(contestant, measurement.setting)
    except ProcessError as error:
        measurement = replace(measurement, memory_error=str(error))
        watch(measurement.name, "memory not measured")
    else:
        measurement = replace(measurement, memory=found)
        watch(measurement.name, "memory")
    return measurement


@contextmanager
def _compiler_for(models: int) -> Iterator[None]:
    """Nothing compiled before is kept, and there is room for all models: none silently runs uncompiled."""
    torch.compiler.reset()
    limit = _GRAPHS_A_MODEL * models
    try:
        with compiler.patch(recompile_limit=limit, fail_on_recompile_limit_hit=True):
            yield
    finally:
        torch.compiler.reset()
