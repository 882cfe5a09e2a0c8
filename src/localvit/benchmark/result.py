"""Results of a benchmark, with the numbers of every round, and their JSON form."""

import dataclasses
import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from localvit.benchmark.setting import Setting
from localvit.system.machine import cores, describe
from localvit.system.plain_files import parse_json
from localvit.system.plain_values import build
from localvit.training.record import command_line, git_state, versions

VERSION = 1


@dataclass(frozen=True)
class Spread:
    """Median and spread of some numbers.

    Attributes:
        median: the median.
        low: the lower quartile.
        high: the upper quartile.
        minimum: the smallest number.
        maximum: the largest number.
    """

    median: float
    low: float
    high: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Spread":
        """The spread of at least one number. Quartiles are interpolated linearly."""
        minimum, low, median, high, maximum = np.quantile(numbers, (0, 0.25, 0.5, 0.75, 1))
        return cls(float(median), float(low), float(high), float(minimum), float(maximum))

    @property
    def relative(self) -> float:
        """The interquartile range divided by the median."""
        return (self.high - self.low) / self.median


@dataclass(frozen=True)
class Measurement:
    """The measurements of one contestant in one setting.

    Attributes:
        name: name of the contestant.
        setting: the contestant's own setting, with the device that it ran on.
        rates: images per second in each round. Empty if it failed.
        parameters: number of parameters of the model as defined. None if it could not be built.
        macs: multiply-accumulates per image. None if they could not be counted.
        memory: peak memory of a step in bytes, including model, optimizer and images. None if not measured.
        error: why the contestant failed.
        memory_error: why its memory could not be measured.
    """

    name: str
    setting: Setting
    rates: tuple[float, ...] = ()
    parameters: int | None = None
    macs: int | None = None
    memory: int | None = None
    error: str | None = None
    memory_error: str | None = None

    @property
    def images_per_second(self) -> Spread | None:
        """Images per second over all rounds. None if the contestant failed."""
        return Spread.of(self.rates) if self.rates else None

    def utilisation(self, machine_rate: float | None) -> float | None:
        """Model FLOP utilization: operations per second that the model needs, divided by the machine's rate.

        A multiply-accumulate is two operations, and a training step needs three times the operations of inference.
        """
        if machine_rate is None or self.macs is None or self.images_per_second is None:
            return None
        passes = 3 if self.setting.mode == "training" else 1
        return passes * 2 * self.macs * self.images_per_second.median / machine_rate


def ratio(measurement: Measurement, baseline: Measurement) -> Spread | None:
    """Images per second divided by the baseline's, paired by round. None if either failed."""
    if not measurement.rates or not baseline.rates:
        return None
    return Spread.of([rate / other for rate, other in zip(measurement.rates, baseline.rates, strict=True)])


def memory_ratio(measurement: Measurement, baseline: Measurement) -> float | None:
    """Peak memory divided by the baseline's. None if either is unknown."""
    return measurement.memory / baseline.memory if measurement.memory and baseline.memory else None


@dataclass(frozen=True)
class SettingResult:
    """The measurements of all contestants in one setting.

    Attributes:
        setting: the shared setting, which contestants may change for themselves.
        measurements: one per contestant; the first is the baseline.
    """

    setting: Setting
    measurements: tuple[Measurement, ...]

    @property
    def baseline(self) -> Measurement:
        """The first contestant."""
        return self.measurements[0]

    def __getitem__(self, name: str) -> Measurement:
        return {measurement.name: measurement for measurement in self.measurements}[name]


@dataclass(frozen=True)
class BenchmarkResult:
    """The results of all settings.

    Attributes:
        results: one per setting.
        machine_rates: floating-point operations per second of the machine's matrix products, keyed by
            :attr:`Setting.arithmetic <localvit.benchmark.Setting.arithmetic>`.
        record: command, machine, versions, time and code; see :func:`localvit.benchmark.provenance`.
    """

    results: tuple[SettingResult, ...]
    machine_rates: dict[str, float]
    record: dict[str, Any]

    def utilisation(self, measurement: Measurement) -> float | None:
        """Model FLOP utilization on the machine of the benchmark. None if unknown."""
        return measurement.utilisation(self.machine_rates.get(measurement.setting.arithmetic))

    def to_json(self) -> str:
        """All measurements, and for readers the quantities derived from them."""
        results = [
            {"setting": dataclasses.asdict(result.setting), "measurements": list(self._described(result))}
            for result in self.results
        ]
        values = {
            "version": VERSION,
            "record": self.record,
            "machine_rates": self.machine_rates,
            "results": results,
        }
        return json.dumps(values, indent=1, allow_nan=False) + "\n"

    def _described(self, result: SettingResult) -> Iterator[dict[str, Any]]:
        for measurement in result.measurements:
            speed, against = measurement.images_per_second, ratio(measurement, result.baseline)
            yield {
                **dataclasses.asdict(measurement),
                "derived": {
                    "images_per_second": speed and dataclasses.asdict(speed),
                    "ratio": against and dataclasses.asdict(against),
                    "memory_ratio": memory_ratio(measurement, result.baseline),
                    "utilisation": self.utilisation(measurement),
                },
            }

    @classmethod
    def from_json(cls, text: str) -> "BenchmarkResult":
        """Read what :meth:`to_json` wrote. Raises ``ValueError`` for another version or any other text."""
        values = parse_json(text, "this benchmark")
        version = values.get("version") if isinstance(values, dict) else None
        if version != VERSION:
            raise ValueError(f"the version of the benchmark is {version!r}; this localvit reads {VERSION}")
        try:
            for result in values["results"]:
                for measurement in result["measurements"]:
                    measurement.pop("derived", None)
            return build(cls, {name: values[name] for name in ("results", "machine_rates", "record")})
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"this is not a benchmark of localvit: {type(error).__name__}: {error}") from error


def provenance() -> dict[str, Any]:
    """Describe the current process: command, machine, cores, threads, versions, time and state of the code."""
    return {
        "command": command_line(),
        "machine": describe(),
        "system": platform.system(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": git_state(),
    }
