"""From runs to means, intervals and paired differences; the arithmetic is SciPy's."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from localvit.studies.config import StudyConfig, VariantConfig
from localvit.training import RunResult

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % confidence interval from Student's t distribution."""

    mean: float
    low: float
    high: float

    def short_text(self, *, signed: bool = False) -> str:
        """As narrow tables show it: ``93.20 ± 2.20``, half the width of the interval behind the sign."""
        return f"{self.mean:{'+' if signed else ''}.2f} ± {self.high - self.mean:.2f}"

    def text(self, *, signed: bool = False) -> str:
        """As tables show it: ``93.20 [91.00, 95.40]``, with signs for differences."""
        sign = "+" if signed else ""
        return f"{self.mean:{sign}.2f} [{self.low:{sign}.2f}, {self.high:{sign}.2f}]"

    def sentence(self) -> str:
        """A difference in words: ``+2.90 points (95 % interval +0.02 to +5.77)``."""
        return f"{self.mean:+.2f} points (95 % interval {self.low:+.2f} to {self.high:+.2f})"


@dataclass(frozen=True)
class VariantSummary:
    """What a study found out about one variant; accuracies in percent, differences in points.

    Attributes:
        config: the variant.
        runs: its results, in the order of the study's seeds.
        accuracy: over seeds.
        gain: over the baseline, seed by seed.
        gain_over_control: over the variant's control, seed by seed; none where it has no control.
    """

    config: VariantConfig
    runs: list[RunResult]
    accuracy: Interval
    gain: Interval
    gain_over_control: Interval | None

    @property
    def name(self) -> str:
        """Of the variant."""
        return self.config.name

    @property
    def parameters(self) -> int:
        """Of the model."""
        return self.runs[0].parameters

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return self.runs[0].macs

    @property
    def paper_gain(self) -> str:
        """The paper's gain for this variant, as tables show it."""
        return "–" if self.config.paper_gain is None else f"{self.config.paper_gain:+.1f}"

    @property
    def accuracies(self) -> list[float]:
        """Of each run, in percent."""
        return [run.accuracy for run in self.runs]


def summarize(study: StudyConfig, runs: dict[str, list[RunResult]]) -> list[VariantSummary]:
    """Summaries of all variants, in the order of the study.

    Args:
        study: the study.
        runs: for each variant's name its results, in the order of the study's seeds.
    """
    accuracies = {name: [run.accuracy for run in results] for name, results in runs.items()}

    def paired(name: str, reference: str) -> Interval:
        return interval(np.subtract(accuracies[name], accuracies[reference]).tolist())

    return [
        VariantSummary(
            config=variant,
            runs=runs[variant.name],
            accuracy=interval(accuracies[variant.name]),
            gain=paired(variant.name, study.baseline),
            gain_over_control=paired(variant.name, variant.control) if variant.control else None,
        )
        for variant in study.variants
    ]


def interval(values: list[float]) -> Interval:
    """Mean and 95 % interval of at least two independent measurements."""
    mean, error = float(np.mean(values)), float(stats.sem(values))
    if error == 0.0:  # the t distribution has no width to scale then, and SciPy answers nan
        return Interval(mean, mean, mean)
    low, high = stats.t.interval(CONFIDENCE, df=len(values) - 1, loc=mean, scale=error)
    return Interval(mean, float(low), float(high))
