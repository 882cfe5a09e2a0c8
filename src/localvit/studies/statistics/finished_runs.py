"""The finished runs of a study as arrays, and what contrasts of them are."""

import functools
from collections.abc import Sequence

import numpy as np

from localvit.studies.claims import Contrast
from localvit.studies.record import Outcome, StudyRecord
from localvit.studies.statistics.contrast import Estimate, Floats, Interval, Spread, estimate, pool


class FinishedRuns:
    """The finished runs of a study, as arrays.

    Args:
        record: of the study.
    """

    def __init__(self, record: StudyRecord) -> None:
        self.config, self.costs = record.config, record.costs
        self.outcomes: dict[str, dict[int, Outcome]] = {name: {} for name in self.config.variants}
        pending = set()
        for outcome in record.outcomes:
            if outcome.status == "finished" and outcome.variant is not None:
                self.outcomes[outcome.variant][outcome.seed] = outcome
            elif outcome.status == "missing":
                pending.add(outcome.seed)
        self.compared = [name for name in self.config.variants if name not in self.config.landmarks]
        # Looks whose seeds have all finished, or failed for good.
        self.looks = [look for look in self.config.all_looks if not pending & {*self.config.seeds[:look]}]

    def seeds(self, contrast: Contrast, look: int | None = None) -> list[int]:
        """The seeds that all variants of a contrast have finished, of those up to a look; none if fewer than two."""
        common = [
            seed for seed in self.config.seeds[:look] if all(seed in self.outcomes[name] for name in contrast.weights)
        ]
        return common if len(common) >= 2 else []

    def estimate(self, contrast: Contrast, look: int | None = None, *, pooled: bool = True) -> Estimate:
        """The contrast over the seeds up to a look."""
        seeds, names = self.seeds(contrast, look), [*contrast.weights]
        spread = self.spread(look) if pooled else None
        return estimate(
            self._accuracies(names, seeds), [*contrast.weights.values()], self._correct(names, seeds), spread
        )

    def gain(self, name: str, reference: str) -> Interval | None:
        """Difference of two variants with its own 95 % interval."""
        contrast = Contrast("", {name: 1.0, reference: -1.0})
        return self.estimate(contrast).interval() if self.seeds(contrast) else None

    def loss(self, contrast: Contrast) -> Interval | None:
        """The contrast of the cross-entropies of the test images."""
        seeds = self.seeds(contrast)
        losses = [[self.outcomes[name][seed].loss for seed in seeds] for name in contrast.weights]
        if any(loss is None for row in losses for loss in row):
            return None
        return estimate(np.array(losses, dtype=np.float64), [*contrast.weights.values()], None, None).interval()

    def accuracies(self, name: str) -> dict[int, float]:
        """Percent, by seed."""
        return {seed: run.result.accuracy for seed, run in self.outcomes[name].items() if run.result is not None}

    @functools.cache  # noqa: B019  # as long as the runs
    def spread(self, look: int | None = None) -> Spread | None:
        """The variance between seeds, pooled over all variants that are compared, if that is justified."""
        seeds = [
            seed for seed in self.config.seeds[:look] if all(seed in self.outcomes[name] for name in self.compared)
        ]
        return pool(self._accuracies(self.compared, seeds)) if len(seeds) >= 2 else None

    def _accuracies(self, names: Sequence[str], seeds: Sequence[int]) -> Floats:
        by_seed = [self.accuracies(name) for name in names]
        return np.array([[accuracies[seed] for seed in seeds] for accuracies in by_seed])

    def _correct(
        self, names: Sequence[str], seeds: Sequence[int]
    ) -> "np.ndarray[tuple[int, ...], np.dtype[np.bool_]] | None":
        found = [[self.outcomes[name][seed].correct_images() for seed in seeds] for name in names]
        sizes = {None if correct_M is None else len(correct_M) for row in found for correct_M in row}
        return np.array(found) if len(sizes) == 1 and None not in sizes else None
