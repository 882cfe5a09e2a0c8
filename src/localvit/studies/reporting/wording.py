"""What a study found out, in sentences that people understand."""

import math
from collections.abc import Sequence

from localvit.studies.reporting.statistics import Comparison, StudySummary, VariantSummary

MINUS = "\N{MINUS SIGN}"
_SPACE, _TIMES = "\N{NO-BREAK SPACE}", "\N{MULTIPLICATION SIGN}"


def answer(summary: StudySummary) -> list[str]:
    """The answer to the question, whether it agrees with the paper, and what is not known yet: a sentence each."""
    headline = _of_single(summary) if isinstance(summary.config.baseline, str) else _of_pairs(summary)
    return [sentence for sentence in (headline, _agreement(summary), _incomplete(summary)) if sentence]


def agreement_word(summary: StudySummary) -> str:
    """Agreement with the paper in a word or two; what it does not claim, no study can agree with."""
    if summary.agreement is not None:
        return summary.agreement
    return "not tested" if summary.config.paper_finding else "not asked"


def data_line(summary: StudySummary) -> str:
    """What a study was made of: scale, images, variants and seeds."""
    config = summary.config
    scale = f"scale {config.scale}, " if config.scale else ""
    seeds = ", ".join(map(str, config.seeds))
    return f"{scale}images from {config.recipe.data.source}, {len(config.variants)} variants, seeds {seeds}"


def signed(value: float, digits: int = 2) -> str:
    """A difference, with its sign; what rounds to nothing has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def p_text(p_value: float) -> str:
    """A p-value behind its relation, as papers print it."""
    return f"p{_SPACE}<{_SPACE}0.001" if p_value < 0.001 else f"p{_SPACE}={_SPACE}{p_value:.3f}"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _of_single(summary: StudySummary) -> str:
    """The best variant against the only baseline."""
    baseline = summary.variant(str(summary.config.baseline))
    others = [variant for variant in summary.variants if variant.name != baseline.name]
    known = sorted((v for v in others if v.accuracy is not None), key=_mean, reverse=True)
    if not known and baseline.accuracy is None:
        return "No run has finished yet."
    if baseline.accuracy is None:
        return f"{baseline.name}, the baseline, has no finished run yet, so there is nothing to compare with."
    if not known:
        return f"Only {baseline.name} has finished runs: it reaches {_percent(baseline)}."
    of_all = f" of {len(others)} variants" if len(others) > 1 else ""
    surely = [variant for variant in known if variant.gain is not None and variant.gain.verdict == "better"]
    if surely:
        best = surely[0]
        subject = f"The best{of_all}, {best.name}," if of_all else best.name
        if best is not known[0]:
            many = f"{len(surely)}{of_all} {_is(surely)} better than {baseline.name};"
            subject = (
                f"{many} the best of these, {best.name}," if len(surely) > 1 else f"{many} it is {best.name}, which"
            )
    elif known[0].gain is not None and known[0].gain.verdict == "worse":
        best = known[0]
        subject = f"None{of_all} beats {baseline.name}; the nearest, {best.name}," if of_all else best.name
    else:
        best = known[0]
        subject = f"There is no evidence at this size that any{of_all} beats {baseline.name}; the best, {best.name},"
        if not of_all:
            subject = f"There is no evidence at this size that {best.name} beats {baseline.name}; it"
    return (
        f"{subject} reaches {_percent(best)} where {baseline.name} reaches {_percent(baseline)}: "
        f"{_points(best, baseline)}{_price(best, baseline)}."
    )


def _of_pairs(summary: StudySummary) -> str:
    """How many variants are better than their own baselines."""
    names = [name for name in summary.config.variants if summary.config.baseline_of(name) is not None]
    found = {name: gain for name in names if (gain := summary.variant(name).gain) is not None}
    if not found:
        return "No variant has finished with its baseline on two seeds yet, so there is nothing to compare."
    by_verdict = {
        verdict: [name for name, gain in found.items() if gain.verdict == verdict]
        for verdict in ("better", "worse", "no evidence at this size")
    }
    better, worse, unsure = by_verdict.values()
    unknown = [name for name in names if name not in found]
    parts = [
        f"{len(better)} of {len(names)} variants {_is(better)} better than {_its(better)} ({listed(better)})"
        if better
        else f"None of {len(names)} variants is surely better than its baseline"
    ]
    if worse:
        parts.append(f"{len(worse)} {_is(worse)} worse ({listed(worse)})")
    if unsure:
        parts.append(f"for {len(unsure)} there is no evidence at this size ({listed(unsure)})")
    if unknown:
        parts.append(f"{len(unknown)} cannot be compared yet ({listed(unknown)})")
    means = [gain.difference.mean for gain in found.values()]
    spread = f"gains go from {signed(min(means))} to {signed(max(means))} points"
    return "; ".join([*parts, spread if len(means) > 1 else f"the gain is {signed(means[0])} points"]) + "."


def _agreement(summary: StudySummary) -> str:
    claims = summary.claims
    if not claims:
        return "" if summary.config.paper_finding else "The paper does not ask this."
    whose = "the paper's " if summary.config.paper_finding else ""
    if len(claims) == 1:
        verb = {"agrees": "finds", "differs": "contradicts", "undecided": "can neither find nor contradict"}
        return f"This study {verb[claims[0].agreement]} {whose or 'the '}one claim, {claims[0].claim}."
    counts = [sum(claim.agreement == agreement for claim in claims) for agreement in ("agrees", "differs", "undecided")]
    if counts[2] == len(claims):
        return f"This study can decide none of {whose or 'the '}{len(claims)} claims."
    finds, contradicts, leaves = (
        "none" if count == 0 else "all" if count == len(claims) else str(count) for count in counts
    )
    parts = [f"finds {finds}", f"contradicts {contradicts}", *([f"cannot decide {leaves}"] if counts[2] else [])]
    return f"Of {whose}{len(claims)} claims this study {listed(parts)}."


def _incomplete(summary: StudySummary) -> str:
    runs, failed, missing = len(summary.record.outcomes), len(summary.failed), len(summary.missing)
    parts = [f"{failed} failed"] if failed else []
    parts += [f"{missing} {'is' if missing == 1 else 'are'} still to be trained"] if missing else []
    return f"This is not the whole study: of {runs} runs {' and '.join(parts)}." if parts else ""


def _points(variant: VariantSummary, baseline: VariantSummary) -> str:
    if variant.gain is None:
        difference = signed(_mean(variant) - _mean(baseline))
        return f"{difference} points, with too few seeds of both for an interval"
    seeds = variant.gain.seeds
    on_both = f" on the {seeds} seeds of both" if {seeds} != {len(variant.accuracies), len(baseline.accuracies)} else ""
    return f"{signed(variant.gain.difference.mean)} points{on_both} ({_certainty(variant.gain)})"


def _certainty(comparison: Comparison) -> str:
    low, high = signed(comparison.difference.low), signed(comparison.difference.high)
    return f"95{_SPACE}% interval {low} to {high}, Holm-corrected {p_text(comparison.p_holm)}"


def _price(variant: VariantSummary, baseline: VariantSummary) -> str:
    """What the variant costs beside the baseline, as far as it is known."""
    costs, reference = variant.costs, baseline.costs
    if costs is None or reference is None:
        return ""
    if costs.macs == reference.macs:
        price = ", for as many multiply-accumulates"
    else:
        price = f", for {signed(100 * (costs.macs / reference.macs - 1), 1)}{_SPACE}% multiply-accumulates"
    if costs.training_images_per_second and reference.training_images_per_second:
        speed = costs.training_images_per_second / reference.training_images_per_second
        price += f" and at {speed:.2f}{_TIMES} the training speed"
    return price


def _mean(variant: VariantSummary) -> float:
    return math.nan if variant.accuracy is None else variant.accuracy.mean


def _percent(variant: VariantSummary) -> str:
    return f"{_mean(variant):.2f}{_SPACE}%"


def _is(names: Sequence[object]) -> str:
    return "is" if len(names) == 1 else "are"


def _its(names: Sequence[str]) -> str:
    return "its baseline" if len(names) == 1 else "their baselines"
