"""What a study found out, in sentences."""

import math
from collections import Counter
from collections.abc import Sequence

from localvit.studies.statistics.contrast import Interval
from localvit.studies.statistics.findings import Agreement, ContrastSummary, StudySummary, VariantSummary, Verdict

MINUS = "\N{MINUS SIGN}"
_SPACE, _TIMES = "\N{NO-BREAK SPACE}", "\N{MULTIPLICATION SIGN}"
_LIMITS = {
    "parameters": "parameters",
    "macs": "multiply-accumulates",
    "training_time": "training time",
    "training_memory": "training memory",
}


def answer(summary: StudySummary) -> list[str]:
    """The answer to the question, what became of the claims, and what is not known yet: a sentence each."""
    if summary.isolated:
        headline = [_of_locality(summary), _of_twins(summary)]
    elif isinstance(summary.config.baseline, str):
        headline = [_of_single(summary)]
    else:
        headline = [_of_pairs(summary)]
    return [sentence for sentence in (*headline, _of_claims(summary), _incomplete(summary)) if sentence]


def agreement_word(summary: StudySummary) -> str:
    """Agreement with the paper in a word or two; a study without claims cannot agree."""
    if summary.agreement is not None:
        return summary.agreement
    return "not tested" if summary.config.paper_finding else "not asked"


def agreement_text(agreement: Agreement, margins: Sequence[float | None]) -> str:
    """An agreement for tables: ``agrees``, ``differs``, ``undecided`` or ``equal within 0.5 points``."""
    if agreement != "equal":
        return agreement
    known = [margin for margin in margins if margin is not None]
    return f"equal within {points(max(known))}" if known else agreement


def verdict_text(part: ContrastSummary) -> str:
    """A verdict for tables: ``better``, ``worse``, ``equal within 0.5 points`` or ``no evidence at this size``."""
    words: dict[Verdict, str] = {"better": "better", "worse": "worse", "undecided": "no evidence at this size"}
    return words.get(part.verdict, f"equal within {points(part.margin or 0)}")


def points(margin: float) -> str:
    """A margin with its unit: ``0.5 points``, ``1 point``."""
    return f"{margin:g} point" if margin == 1 else f"{margin:g} points"


def data_line(summary: StudySummary) -> str:
    """What a study is made of: scale, images, variants and seeds."""
    config = summary.config
    scale = f"scale {config.scale}, " if config.scale else ""
    used = config.seeds[: summary.stopped_at]
    seeds = f"seeds {', '.join(map(str, used))}" if len(used) <= 5 else f"{len(used)} seeds"
    return f"{scale}images from {config.recipe.data.source}, {len(config.variants)} variants, {seeds}"


def signed(value: float, digits: int = 2) -> str:
    """A difference with its sign; none if it rounds to 0."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def listed(names: Sequence[str]) -> str:
    """Names in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def limit_text(name: str) -> str:
    """What a price limits, in words."""
    return _LIMITS[name]


def _of_locality(summary: StudySummary) -> str:
    """Gain over the controls that differ in locality alone."""
    (name, gain), *others = sorted(summary.isolated.items(), key=lambda item: -item[1].mean)
    if not others:
        return (
            f"Locality itself brings {_gain(gain)}: that is what {name} reaches more than "
            f"{summary.config.isolates[name]}, which differs in locality alone."
        )
    means = [gain.mean for gain in summary.isolated.values()]
    surely = [gain for gain in summary.isolated.values() if gain.low > 0]
    return (
        f"Locality itself brings {signed(min(means))} to {signed(max(means))} points over controls that differ in "
        f"locality alone; {len(surely)} of {len(means)} intervals lie above 0."
    )


def _of_twins(summary: StudySummary) -> str:
    """Gain of the same variants over their baselines, in which more than locality differs."""
    found = [
        (name, baseline, gain)
        for name in summary.isolated
        if (baseline := summary.config.baseline_of(name)) and (gain := summary.variant(name).gain)
    ]
    if not found:
        return ""
    if len(found) == 1:
        name, baseline, gain = found[0]
        price = _price(summary.variant(name), summary.variant(baseline))
        return f"The whole change from {baseline} to {name} brings {_gain(gain)}{price}."
    means = [gain.mean for _, _, gain in found]
    return f"The whole change from the baselines brings {signed(min(means))} to {signed(max(means))} points."


def _of_single(summary: StudySummary) -> str:
    """The best variant against the only baseline."""
    baseline = summary.variant(str(summary.config.baseline))
    others = [
        variant
        for variant in summary.variants
        if variant.name != baseline.name and variant.name not in summary.config.landmarks
    ]
    known = sorted((v for v in others if v.accuracy is not None), key=_mean, reverse=True)
    if not known and baseline.accuracy is None:
        return "No run has finished yet."
    if baseline.accuracy is None:
        return f"{baseline.name}, the baseline, has no finished run yet, so there is nothing to compare with."
    if not known:
        return f"Only {baseline.name} has finished runs: it reaches {_percent(baseline)}."
    best = known[0]
    if best.gain is None:
        difference = f"{signed(_mean(best) - _mean(baseline))} points, with too few seeds of both for an interval"
    else:
        difference = _gain(best.gain)
    figures = (
        f"reaches {_percent(best)}, and {baseline.name} {_percent(baseline)}: {difference}{_price(best, baseline)}"
    )
    alone = len(others) == 1
    if best.gain is None or best.gain.low > 0:
        return f"{best.name} {figures}." if alone else f"The best of {len(others)} variants, {best.name}, {figures}."
    surely = "" if best.gain.high < 0 else "surely "
    if alone:
        return f"{best.name} does not {surely}beat {baseline.name}. It {figures}."
    return f"None of {len(others)} variants {surely}beats {baseline.name}. The best, {best.name}, {figures}."


def _of_pairs(summary: StudySummary) -> str:
    """The gains of variants over their own baselines."""
    names = [name for name in summary.config.variants if summary.config.baseline_of(name) is not None]
    gains = {name: gain for name in names if (gain := summary.variant(name).gain) is not None}
    if not gains:
        return "No variant has finished with its baseline on two seeds yet, so there is nothing to compare."
    means = [gain.mean for gain in gains.values()]
    if len(means) == 1:
        return f"{next(iter(gains))} gains {_gain(next(iter(gains.values())))} over its baseline."
    higher = sum(mean > 0 for mean in means)
    return (
        f"{higher} of {len(names)} variants have a higher mean than their baselines; gains range from "
        f"{signed(min(means))} to {signed(max(means))} points."
    )


def _of_claims(summary: StudySummary) -> str:
    """How many claims the study finds, contradicts, and so on."""
    found = summary.agreements
    if not found and summary.claims and all(claim.claim.name and len(claim.parts) == 1 for claim in summary.claims):
        known = [(claim.claim.name, claim.parts[0].difference) for claim in summary.claims]
        return " ".join(f"{name[0].upper()}{name[1:]}: {_gain(difference)}." for name, difference in known)
    if not found:
        verdicts = Counter(verdict_text(part) for claim in summary.claims for part in claim.parts)
        return f"Verdicts: {'; '.join(f'{count} {word}' for word, count in verdicts.items())}." if verdicts else ""
    whose = "the paper's " if summary.config.paper_finding and not _own_claims(summary) else "its "
    words = {"agrees": "finds", "differs": "contradicts", "equal": "finds equality for", "undecided": "cannot decide"}
    counts = {word: found.count(agreement) for agreement, word in words.items() if agreement in found}
    claims = f"{len(found)} claims" if len(found) > 1 else "one claim"
    if len(counts) == 1:
        (word,) = counts
        return f"This study {word} {'all of ' if len(found) > 1 else ''}{whose}{claims}."
    return f"Of {whose}{claims}, this study {listed([f'{word} {count}' for word, count in counts.items()])}."


def _own_claims(summary: StudySummary) -> bool:
    """Whether a study that says which claims are findings of the paper has others too."""
    findings = [bool(claim.claim.finding) for claim in summary.claims]
    return any(findings) and not all(findings)


def _incomplete(summary: StudySummary) -> str:
    runs, failed, missing = len(summary.record.outcomes), len(summary.failed), len(summary.missing)
    seeds = len(summary.config.seeds)
    if not failed and not missing:
        stopped = summary.stopped_at
        if stopped is None or stopped == seeds:
            return ""
        return f"The study stopped after {stopped} of {seeds} seeds, when every claim was decided."
    parts = [f"{failed} failed"] if failed else []
    parts += [f"{missing} {'is' if missing == 1 else 'are'} still to be trained"] if missing else []
    return f"This is not the whole study: of {runs} runs, {' and '.join(parts)}."


def _gain(interval: Interval) -> str:
    gain = f"{signed(interval.mean)} points"
    if math.isnan(interval.low):
        return gain
    return f"{gain} (95{_SPACE}% interval {signed(interval.low)} to {signed(interval.high)})"


def _price(variant: VariantSummary, baseline: VariantSummary) -> str:
    """What the variant costs compared with the baseline, as far as it is known."""
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
