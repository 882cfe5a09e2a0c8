"""Measures contestants: speed in turns in this process, memory in one more process each."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch._dynamo.config as compiler
from rich.console import Console

from localvit.benchmark.contestant import Contestant, Stepper
from localvit.benchmark.measurement import ProcessError, in_process, peak_memory, take_turns
from localvit.benchmark.rate import machine_rate
from localvit.benchmark.result import BenchmarkResult, Measurement, SettingResult, provenance
from localvit.benchmark.setting import ROUNDS, Setting
from localvit.system.progress import progress_bar
from localvit.system.terminal import ERRORS

SECONDS_A_TURN = 0.3
_GRAPHS_A_MODEL = 8  # the compiler's default limit, which models of one class share

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

    After a warm-up, which includes compiling, each contestant takes one turn per round, in rotating order. If one
    fails, its measurement holds the error, and the others go on.

    Args:
        contestants: the first is the baseline.
        setting: the shared setting, which contestants may change for themselves.
        rounds: turns per contestant; 0 to measure only memory.
        seconds_a_turn: approximate duration of a turn, which has at least one step.
        memory: whether to measure the peak memory of a step too, in one more process per contestant.
        watch: called after each piece of work with the contestant's name and a short message.

    Raises:
        ValueError: if there are no contestants, two have the same name, or changes are invalid.
        LocalViTError: if the setting requires a GPU and there is none.
    """
    settings = _settings(contestants, setting)
    with setting.its_threads(), _compiler_for(len(contestants)):
        measurements = _take_turns(contestants, settings, rounds, seconds_a_turn, watch)
    if memory:
        torch.cuda.empty_cache()  # leaves the GPU to the processes that follow
        measurements = [_with_memory(*pair, watch) for pair in zip(measurements, contestants, strict=True)]
    return SettingResult(setting.on_its_device(), tuple(measurements))


def run(contestants: Sequence[Contestant], settings: Iterable[Setting], **how: Any) -> BenchmarkResult:
    """Measure the same contestants in several settings; see :func:`run_each` for the options."""
    return run_each([(contestants, setting) for setting in settings], **how)


def run_each(
    comparisons: Sequence[tuple[Sequence[Contestant], Setting]],
    *,
    rounds: int = ROUNDS,
    seconds_a_turn: float = SECONDS_A_TURN,
    memory: bool = False,
    console: Console = ERRORS,
) -> BenchmarkResult:
    """Run several comparisons, and measure the rate of the machine.

    Args:
        comparisons: pairs of contestants and their shared setting.
        rounds: see :func:`measure`.
        seconds_a_turn: see :func:`measure`.
        memory: see :func:`measure`.
        console: shows a progress bar, or one line per comparison if it is not a terminal.

    Raises:
        ValueError: see :func:`measure`.
        LocalViTError: see :func:`measure`.
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


def contestant_memory(contestant: Contestant, setting: Setting) -> int | None:
    """Peak memory of a step in bytes, including model, optimizer and images, measured in a new process.

    Before it looks at its memory, the process takes a step with a model that it discards. What remains of a first use,
    such as the modules and caches of the compiler, does not count.

    Raises:
        ProcessError: if the contestant fails or cannot be pickled.
    """
    found: int | None = in_process(_memory, contestant, setting)
    return found


def _memory(contestant: Contestant, setting: Setting) -> int | None:
    with setting.its_threads():
        Stepper(contestant, setting).step()
        torch.compiler.reset()
        return peak_memory(lambda: Stepper(contestant, setting).step, device=setting.torch_device.type)


def _machine_rates(comparisons: Sequence[tuple[Sequence[Contestant], Setting]]) -> dict[str, float]:
    """The rate of the machine for each arithmetic that the contestants use."""
    settings = [one.setting(shared) for contestants, shared in comparisons for one in contestants]
    return {name: machine_rate(setting) for name, setting in {own.arithmetic: own for own in settings}.items()}


def in_words(error: Exception) -> str:
    """An exception as one line of text."""
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
    """Forget compiled models, and make room for all of these, so that none silently runs uncompiled."""
    torch.compiler.reset()
    limit = _GRAPHS_A_MODEL * models
    try:
        with compiler.patch(recompile_limit=limit, fail_on_recompile_limit_hit=True):
            yield
    finally:
        torch.compiler.reset()
