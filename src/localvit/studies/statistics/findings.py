"""What a study found out: estimates, verdicts on its claims, and what it costs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from localvit.studies.claims import Claim, Contrast, Price
from localvit.studies.config import StudyConfig
from localvit.studies.record import Costs, Outcome, StudyRecord
from localvit.studies.statistics.contrast import Interval
from localvit.training.history import Epoch

Verdict = Literal["better", "worse", "equal", "undecided"]
Agreement = Literal["agrees", "differs", "equal", "undecided"]


@dataclass(frozen=True)
class ContrastSummary:
    """What is known of a contrast at the last look.

    Attributes:
        contrast: the contrast.
        difference: in points, with an interval that is simultaneous for all claims and looks of the study.
        p_value: of the t-test over seeds and images, corrected for all claims and looks: below 5 % exactly if the
            interval excludes 0 at this look.
        p_sign_flip: of the exact sign-flip test over seeds, not corrected; None for more than 16 seeds.
        p_improvement: probability that a run of the one variant beats a run of the other; None if not a plain pair.
        loss: difference of the cross-entropies, with a 95 % interval that is not corrected; None if not recorded.
        image_share: share of the variance that comes from the choice of test images; None if not recorded.
        seeds: how many seeds all variants of the contrast have finished.
        verdict: the first verdict that a look gave.
        look: number of seeds of that look; None if undecided.
        margin: points within which differences count as equal; None if not stated.
    """

    contrast: Contrast
    difference: Interval
    p_value: float
    p_sign_flip: float | None
    p_improvement: float | None
    loss: Interval | None
    image_share: float | None
    seeds: int
    verdict: Verdict
    look: int | None
    margin: float | None


@dataclass(frozen=True)
class ClaimSummary:
    """What a study says about a claim.

    Attributes:
        claim: the claim.
        parts: its contrasts; fewer than the claim has while some have fewer than two seeds.
        expected: how many contrasts the claim has.
    """

    claim: Claim
    parts: tuple[ContrastSummary, ...]
    expected: int

    @property
    def agreement(self) -> Agreement:
        """Whether the study finds what is claimed, or its opposite, or equality within the margin, or cannot tell.

        Several contrasts must all agree. One that is reversed or equal refutes such a claim.
        """
        verdicts = [part.verdict for part in self.parts]
        if self.claim.expect == "not less":
            good, bad = {"better", "equal"}, {"worse"}
        else:
            good, bad = {"better"}, {"worse"} if self.expected == 1 else {"worse", "equal"}
        if bad & set(verdicts):
            return "differs"
        if len(verdicts) < self.expected or "undecided" in verdicts:
            return "undecided"
        return "agrees" if set(verdicts) <= good else "equal"

    @property
    def decided(self) -> bool:
        """Whether no further seed can change the verdict."""
        return self.agreement != "undecided"

    @property
    def look(self) -> int | None:
        """Number of seeds at which the claim was decided."""
        looks = [part.look for part in self.parts if part.look is not None]
        return max(looks) if self.decided and looks else None


@dataclass(frozen=True)
class PriceSummary:
    """What a variant costs, as a ratio to another.

    Attributes:
        price: the limits.
        ratios: measured, by name; a ratio that is not known is missing.
    """

    price: Price
    ratios: Mapping[str, float]

    @property
    def agreement(self) -> Agreement:
        """Whether all limits hold, one is broken, or some are not known yet."""
        limits = self.price.limits()
        if any(self.ratios[name] > limits[name] for name in self.ratios):
            return "differs"
        return "agrees" if self.ratios.keys() == limits.keys() else "undecided"


@dataclass(frozen=True)
class VariantSummary:
    """What a study found out about one variant.

    Attributes:
        name: of the variant.
        accuracies: percent, of each seed that has finished.
        accuracy: over those seeds, with a 95 % interval over seeds and images; None if there are none.
        gain: over the baseline, likewise and not corrected; None for a baseline, or with fewer than two seeds of both.
        costs: counted and measured; None if unknown.
        curves: metrics of each epoch, of each seed that has finished.
    """

    name: str
    accuracies: Mapping[int, float]
    accuracy: Interval | None
    gain: Interval | None
    costs: Costs | None
    curves: Mapping[int, list[Epoch]]


@dataclass(frozen=True)
class StudySummary:
    """What a study found out.

    Attributes:
        record: what it is made from.
        variants: in the order of the study.
        claims: in the order of the study.
        prices: in the order of the study.
        isolated: gain of each variant with locality over the control that isolates locality.
        pooled: whether the variance between seeds was pooled over the variants.
        stopped_at: number of seeds after which every claim was decided; None if more are needed.
        failed: runs that failed.
        missing: runs that are still to be trained.
    """

    record: StudyRecord
    variants: tuple[VariantSummary, ...]
    claims: tuple[ClaimSummary, ...]
    prices: tuple[PriceSummary, ...]
    isolated: Mapping[str, Interval]
    pooled: bool
    stopped_at: int | None
    failed: tuple[Outcome, ...]
    missing: tuple[Outcome, ...]

    @property
    def config(self) -> StudyConfig:
        """The study."""
        return self.record.config

    @property
    def agreement(self) -> Agreement | None:
        """With everything expected: agrees if every claim and price does, differs if one does; None without any."""
        found = self.agreements
        if not found:
            return None
        for word in ("differs", "undecided", "equal"):
            if word in found:
                return word
        return "agrees"

    @property
    def agreements(self) -> list[Agreement]:
        """Of every claim that expects something, and of every price."""
        claims = [claim.agreement for claim in self.claims if claim.claim.expect != "any"]
        return claims + [price.agreement for price in self.prices]

    def variant(self, name: str) -> VariantSummary:
        """The summary of one variant."""
        return next(variant for variant in self.variants if variant.name == name)
