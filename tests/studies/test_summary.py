"""From outcomes to verdicts: pairing, margins, looks, claims of several contrasts, prices."""

import base64
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from localvit.studies.claims import Claim, Price
from localvit.studies.config import StudyConfig
from localvit.studies.record import Costs, Look, Outcome, StudyRecord, earlier_outcomes, known_outcomes, merge
from localvit.studies.statistics.findings import Agreement, StudySummary
from localvit.studies.statistics.summary import summarize
from localvit.training import RunResult

NAMES = ("base", "local", "control")


def study(*claims: Claim, names: Sequence[str] = NAMES, **fields: Any) -> StudyConfig:
    values: dict[str, Any] = {"seeds": [0, 1, 2, 3], **fields}
    return StudyConfig("s", "?", {name: {} for name in names}, names[0], claims=list(claims), **values)


def outcome(variant: str, seed: int, accuracy: float | str | None, correct: str | None = None) -> Outcome:
    if not isinstance(accuracy, int | float):
        return Outcome(variant, seed, f"{variant}-{seed}", error=accuracy)
    epochs = [{"epoch": 1, "val_top1": 0.0}, {"epoch": 2, "val_top1": float(accuracy), "val_loss": 1 - accuracy / 100}]
    return Outcome(variant, seed, f"{variant}-{seed}", RunResult(10, 20, epochs), correct=correct)


def found(
    config: StudyConfig, costs: dict[str, Costs] | None = None, **accuracies: Sequence[float | str | None]
) -> StudySummary:
    """A study with these accuracies by seed; a text for a failed run, None for one that is still to be trained."""
    outcomes = [outcome(name, seed, value) for name, values in accuracies.items() for seed, value in enumerate(values)]
    return summarize(StudyRecord(config, tuple(outcomes), costs or {}))


BASE = [70.0, 80.2, 90.1, 60.0]


def shifted(by: float, jitter: Sequence[float] = (0.1, -0.1, 0.05, -0.05)) -> list[float]:
    return [value + by + noise for value, noise in zip(BASE, jitter, strict=True)]


def test_gains_are_paired_by_seed() -> None:
    summary = found(study(), base=BASE, local=shifted(1))
    gain, local = summary.variant("local").gain, summary.variant("local").accuracy
    assert gain is not None
    assert local is not None
    expected = stats.ttest_rel(shifted(1), BASE).confidence_interval()
    assert (gain.low, gain.high) == pytest.approx((expected.low, expected.high))
    assert local.low < summary.variant("base").accuracy.mean  # type: ignore[union-attr]  # seeds differ by far more
    assert summary.variant("base").gain is None
    assert summary.variant("control").accuracy is None


def test_without_claims_every_variant_is_compared_with_its_baseline_and_corrected_for_their_number() -> None:
    summary = found(study(), base=BASE, local=shifted(1), control=shifted(0.02, (0.3, -0.2, 0.1, -0.3)))
    assert [str(claim.claim) for claim in summary.claims] == ["local against base", "control against base"]
    assert [part.verdict for claim in summary.claims for part in claim.parts] == ["better", "undecided"]
    assert summary.agreement is None
    (part,) = summary.claims[0].parts
    single = found(
        study(Claim("local", "base")), base=BASE, local=shifted(1), control=shifted(0.02, (0.3, -0.2, 0.1, -0.3))
    )
    assert part.p_value == pytest.approx(2 * single.claims[0].parts[0].p_value)


@pytest.mark.parametrize(
    ("by", "margin", "expect", "agreement"),
    [
        (1.0, None, "more", "agrees"),
        (-1.0, None, "more", "differs"),
        (0.01, None, "more", "undecided"),
        (0.01, 0.5, "more", "equal"),
        (0.01, 0.1, "more", "undecided"),
        (-0.2, 0.5, "not less", "agrees"),
        (-1.0, 0.5, "not less", "differs"),
        (-0.5, 0.5, "not less", "undecided"),
    ],
)
def test_verdicts_follow_from_interval_margin_and_expectation(
    by: float, margin: float | None, expect: Any, agreement: Agreement
) -> None:
    claim = Claim("local", "base", expect=expect, margin=margin)
    summary = found(study(claim, names=("base", "local")), base=BASE, local=shifted(by))
    assert summary.claims[0].agreement == agreement == summary.agreement


def test_an_interval_excludes_zero_exactly_if_p_is_below_five_percent() -> None:
    rng = np.random.default_rng(0)
    claims = [Claim("local", "base"), Claim("control", "base")]
    sides = set()
    for _ in range(25):
        effect = rng.uniform(0, 1.2)
        values = {name: (70 + effect * (name == "local") + 0.4 * rng.normal(size=4)).tolist() for name in NAMES}
        for claim in found(study(*claims, looks=[2, 3]), **values).claims:
            (part,) = claim.parts
            excluded = part.difference.low > 0 or part.difference.high < 0
            sides.add(excluded)
            if part.look in (None, 4):  # an earlier look, which was stricter, has not decided
                assert (part.p_value < 0.05) == excluded
    assert sides == {True, False}


def test_a_claim_of_several_holds_if_all_do_and_falls_with_one() -> None:
    names = ("a", "A", "b", "B")
    claim = Claim(each={"A": "a", "B": "b"}, points={"A": 2.6})
    up, level = shifted(1), shifted(0.01)

    def agreement(first: list[float], second: list[float], margin: float | None = None) -> Agreement:
        return found(study(claim, names=names, margin=margin), a=BASE, A=first, b=BASE, B=second).claims[0].agreement

    assert agreement(up, up) == "agrees"
    assert agreement(up, shifted(-1)) == "differs"
    assert agreement(up, level) == "undecided"
    assert agreement(up, level, margin=0.5) == "differs", "a claim that each gains is refuted by one that does not"
    summary = found(study(claim, names=names), a=BASE, A=up)
    assert (summary.claims[0].agreement, len(summary.claims[0].parts)) == ("undecided", 1)
    assert claim.paper_points(summary.claims[0].parts[0].contrast) == 2.6


def test_a_study_stops_at_the_first_look_that_decides_every_claim_and_later_seeds_are_not_missing() -> None:
    config = study(Claim("local", "base"), names=("base", "local"), seeds=list(range(6)), looks=[4])
    pending: list[float | str | None] = [None, None]
    summary = found(config, base=[*BASE, *pending], local=[*shifted(5), *pending])
    assert (summary.stopped_at, summary.claims[0].look, summary.missing) == (4, 4, ())
    summary = found(config, base=[*BASE, *pending], local=[*shifted(0.01), *pending])
    assert summary.stopped_at is None
    assert [(run.variant, run.seed) for run in summary.missing] == [
        *(("base", 4), ("base", 5), ("local", 4), ("local", 5))
    ]


def test_a_look_is_stricter_than_the_end_and_its_verdict_stays() -> None:
    # An effect that one look at four seeds would find, and that an early look at four of eight does not.
    rng = np.random.default_rng(5)
    noise = rng.normal(size=8)
    noise -= noise[:4].mean()
    t = stats.t.isf(0.02, 3) * noise[:4].std(ddof=1) / 2  # p = 0.04 at four seeds
    ours, base = (70 + t + noise).tolist(), [70.0] * 8
    names = ("base", "local")
    early = found(study(Claim("local", "base"), names=names, seeds=list(range(4))), base=base[:4], local=ours[:4])
    assert early.claims[0].parts[0].p_value == pytest.approx(0.04)
    assert early.claims[0].agreement == "agrees"
    looked = study(Claim("local", "base"), names=names, seeds=list(range(8)), looks=[4])
    pending: list[float | str | None] = [None] * 4
    assert found(looked, base=[*base[:4], *pending], local=[*ours[:4], *pending]).claims[0].agreement == "undecided"
    clear = [value + 50 for value in ours[:4]]
    reversed_later = [*clear, *(value - 500 for value in ours[4:])]
    summary = found(looked, base=base, local=reversed_later)
    assert (summary.claims[0].agreement, summary.claims[0].look, summary.stopped_at) == ("agrees", 4, 4)


def test_seeds_that_failed_are_left_out_and_do_not_keep_a_study_open() -> None:
    summary = found(study(Claim("local", "base")), base=[*BASE[:3], "out of memory"], local=shifted(1), control=BASE)
    assert summary.claims[0].parts[0].seeds == 3
    assert summary.stopped_at == 4
    assert [(run.variant, run.seed, run.error) for run in summary.failed] == [("base", 3, "out of memory")]


def test_a_slope_is_a_regression_on_the_logarithm() -> None:
    variants = {f"gamma {gamma}": {"model.locality": {"expansion_ratio": gamma}} for gamma in (1, 2, 3, 6)}
    claim = Claim(slope="model.locality.expansion_ratio")
    config = StudyConfig("s", "?", {"DeiT": {}, **variants}, "DeiT", claims=[claim])
    rng = np.random.default_rng(1)
    values = {name: (60 + 2 * rng.normal(size=3)).tolist() for name in config.variants}
    outcomes = [outcome(name, seed, value) for name, row in values.items() for seed, value in enumerate(row)]
    (part,) = summarize(StudyRecord(config, tuple(outcomes))).claims[0].parts
    x = np.log2([1, 2, 3, 6])
    slopes = [stats.linregress(x, [values[name][seed] for name in variants]).slope for seed in range(3)]
    assert part.difference.mean == pytest.approx(np.mean(slopes))
    assert sum(part.contrast.weights.values()) == pytest.approx(0)
    assert "DeiT" not in part.contrast.weights


def test_test_images_widen_intervals() -> None:
    rng = np.random.default_rng(2)
    hard_M = rng.random(60)
    outcomes, plain = [], []
    for name, ease in (("base", 0.5), ("local", 0.62)):
        for seed in range(4):
            correct_M = rng.random(60) < 0.2 * ease + 0.8 * (hard_M < ease)
            accuracy = 100 * float(correct_M.mean())
            bits = base64.b64encode(np.packbits(correct_M).tobytes()).decode()
            outcomes.append(outcome(name, seed, accuracy, f"60:{bits}"))
            plain.append(outcome(name, seed, accuracy))
            assert outcomes[-1].correct_images().tolist() == correct_M.tolist()  # type: ignore[union-attr]
    config = study(Claim("local", "base"), names=("base", "local"))
    (crossed,) = summarize(StudyRecord(config, tuple(outcomes))).claims[0].parts
    (alone,) = summarize(StudyRecord(config, tuple(plain))).claims[0].parts
    assert crossed.difference.mean == pytest.approx(alone.difference.mean)
    assert crossed.difference.high - crossed.difference.low > alone.difference.high - alone.difference.low
    assert alone.image_share is None
    assert crossed.image_share is not None
    assert 0 < crossed.image_share < 1
    assert crossed.loss is not None
    assert crossed.loss.mean == pytest.approx(-crossed.difference.mean / 100)


@pytest.mark.parametrize(
    ("price", "costs", "agreement"),
    [
        (Price("local", "base", parameters=1.1), Costs(110, 10), "agrees"),
        (Price("local", "base", parameters=1.1), Costs(111, 10), "differs"),
        (Price("local", "base", macs=1.0, training_time=2.0), Costs(100, 10), "undecided"),
        (Price("local", "base", training_time=2.0), Costs(100, 10, training_images_per_second=50.0), "agrees"),
        (Price("local", "base", training_time=2.0), Costs(100, 10, training_images_per_second=49.0), "differs"),
    ],
)
def test_prices_are_ratios_of_costs(price: Price, costs: Costs, agreement: Agreement) -> None:
    base = Costs(100, 10, training_images_per_second=100.0)
    summary = found(study(prices=[price]), {"base": base, "local": costs}, base=BASE, local=shifted(1))
    assert summary.prices[0].agreement == agreement


def test_landmarks_take_part_in_no_statistics() -> None:
    config = study(names=("base", "local", "linear"), landmarks=["linear"])
    summary = found(config, base=BASE, local=shifted(1), linear=[10, 90, 20, 55])
    assert [str(claim.claim) for claim in summary.claims] == ["local against base"]
    assert summary.pooled
    assert summary.variant("linear").accuracy is not None


def test_a_question_without_an_expectation_can_neither_agree_nor_differ() -> None:
    names = ("base", "local")
    assert (
        found(study(Claim("local", "base", expect="any"), names=names), base=BASE, local=shifted(-1)).agreement is None
    )
    both = study(Claim("local", "base", expect="any"), Claim("base", "local"), names=names)
    assert found(both, base=BASE, local=shifted(-1)).agreement == "agrees"


def test_records_with_other_seeds_become_one_that_was_never_looked_at() -> None:
    config = study(Claim("local", "base"), names=("base", "local"), seeds=[0, 1], looks=[])
    looks = (Look(2, "2026-01-01T00:00:00+00:00", {"local > base": "undecided"}),)
    records = [
        StudyRecord(
            replace(config, seeds=seeds),
            tuple(outcome(name, s, 70.0 + s) for name in ("base", "local") for s in seeds),
            looks=looks,
        )
        for seeds in ([0, 1], [2, 3])
    ]
    (merged,) = merge(records)
    assert (merged.config.seeds, merged.looks) == ([0, 1, 2, 3], ())
    assert merge(records[:1]) == records[:1]


def test_a_record_stands_for_runs_without_a_folder_if_it_is_of_the_same_study(tmp_path: Path) -> None:
    config = study(Claim("local", "base"), names=("base", "local"), seeds=[0, 1], looks=[])
    record = StudyRecord(config, tuple(outcome(name, 0, 70.0) for name in ("base", "local")))

    def finished(config: StudyConfig) -> list[tuple[str | None, int]]:
        known = known_outcomes(config.runs(tmp_path), earlier_outcomes(config, record))
        return [(found.variant, found.seed) for found in known if found.status == "finished"]

    def with_data(**fields: Any) -> StudyConfig:
        return replace(config, recipe=replace(config.recipe, data=replace(config.recipe.data, **fields)))

    assert finished(config) == finished(replace(config, seeds=[0, 1, 2])) == [("base", 0), ("local", 0)]
    assert finished(with_data(root="elsewhere")) == [("base", 0), ("local", 0)]
    assert finished(with_data(train_images=7)) == []
    assert finished(replace(config, variants={**config.variants, "local": {"training.batch_size": 2}})) == []
    assert earlier_outcomes(config, None) == ()
    assert [found.status for found in known_outcomes(config.runs(tmp_path), ())] == ["missing"] * 4


def test_locality_is_isolated_by_its_control() -> None:
    summary = found(study(isolates={"local": "control"}), base=BASE, local=shifted(3), control=shifted(1))
    assert summary.isolated["local"].mean == pytest.approx(2.0)
