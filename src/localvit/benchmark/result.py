"""What was measured, with every round's numbers, and the same as JSON."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from localvit.benchmark.setting import Setting

VERSION = 1


@dataclass(frozen=True)
class Spread:
    """The middle of some numbers and how far they lie apart.

    Attributes:
        median: of the numbers.
        low: their lower quartile.
        high: their upper quartile.
        minimum: of the numbers.
        maximum: of the numbers.
    """

    median: float
    low: float
    high: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Spread":
        """Of at least one number; quartiles lie between numbers by linear interpolation."""
        minimum, low, median, high, maximum = np.quantile(numbers, (0, 0.25, 0.5, 0.75, 1))
        return cls(float(median), float(low), float(high), float(minimum), float(maximum))

    @property
    def relative(self) -> float:
        """The range between the quartiles as a share of the median."""
        return (self.high - self.low) / self.median


@dataclass(frozen=True)
class Measurement:
    """What was measured of one contestant in one setting.

    Attributes:
        name: of the contestant.
        setting: its own, with the device it ran on.
        rates: images a second, round by round; none where it failed.
        parameters: of the model as it was defined; None where it could not be built.
        macs: multiply-accumulates of one image; None where they could not be counted.
        memory: bytes of a step at its peak, with model, optimizer and images; None where it was not measured.
        error: why it failed.
        memory_error: why its memory is not known, though it was asked for.
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
        """Over the rounds; None where it failed."""
        return Spread.of(self.rates) if self.rates else None

    def utilisation(self, machine_rate: float | None) -> float | None:
        """Model FLOP utilisation: operations that the model needs in a second over those the machine multiplies with.

        A multiply-accumulate is two operations, and a training step needs three times those of inference.
        """
        if machine_rate is None or self.macs is None or self.images_per_second is None:
            return None
        passes = 3 if self.setting.mode == "training" else 1
        return passes * 2 * self.macs * self.images_per_second.median / machine_rate


def ratio(measurement: Measurement, baseline: Measurement) -> Spread | None:
    """Images a second over the baseline's, paired by round; None where either failed."""
    if not measurement.rates or not baseline.rates:
        return None
    return Spread.of([rate / other for rate, other in zip(measurement.rates, baseline.rates, strict=True)])


def memory_ratio(measurement: Measurement, baseline: Measurement) -> float | None:
    """Peak memory over the baseline's; None where either is not known."""
    return measurement.memory / baseline.memory if measurement.memory and baseline.memory else None


@dataclass(frozen=True)
class SettingResult:
    """The contestants in one setting.

    Attributes:
        setting: that they share, but for what contestants change.
        measurements: of each; the first is the baseline of the others.
    """

    setting: Setting
    measurements: tuple[Measurement, ...]

    @property
    def baseline(self) -> Measurement:
        """The first contestant."""
        return self.measurements[0]

    def __getitem__(self, name: str) -> Measurement:
        for measurement in self.measurements:
            if measurement.name == name:
                return measurement
        raise KeyError(name)


@dataclass(frozen=True)
class BenchmarkResult:
    """Contestants in several settings.

    Attributes:
        results: of each setting.
        machine_rates: floating-point operations a second of the machine's matrix products, by the setting's
            ``arithmetic``.
        record: command, machine, versions, time and code; see :func:`localvit.benchmark.provenance`.
    """

    results: tuple[SettingResult, ...]
    machine_rates: dict[str, float]
    record: dict[str, Any]

    def utilisation(self, measurement: Measurement) -> float | None:
        """Model FLOP utilisation on this machine."""
        return measurement.utilisation(self.machine_rates.get(measurement.setting.arithmetic))

    def to_json(self) -> str:
        """All that was measured, and for readers what follows from it."""
        values = {
            "version": VERSION,
            "record": self.record,
            "machine_rates": self.machine_rates,
            "results": [
                {
                    "setting": dataclasses.asdict(result.setting),
                    "measurements": list(self._described(result)),
                }
                for result in self.results
            ],
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
        """The result that :meth:`to_json` wrote; ``ValueError`` for that of another version, or any other text."""
        values = json.loads(text)
        version = values.get("version") if isinstance(values, dict) else None
        if version != VERSION:
            raise ValueError(f"the benchmark's version is {version!r}; this localvit reads {VERSION}")
        try:
            results = tuple(_setting_result(result) for result in values["results"])
            return cls(results, values["machine_rates"], values["record"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is no benchmark of localvit: {type(error).__name__}: {error}") from error


def _setting_result(values: dict[str, Any]) -> SettingResult:
    return SettingResult(
        Setting(**values["setting"]), tuple(_measurement(measurement) for measurement in values["measurements"])
    )


def _measurement(values: dict[str, Any]) -> Measurement:
    given = {key: value for key, value in values.items() if key != "derived"}
    return Measurement(**{**given, "setting": Setting(**given["setting"]), "rates": tuple(given["rates"])})
