"""What a study may claim, and what is refused."""

from typing import Any

import pytest

from localvit.studies.claims import Claim, Price, number
from localvit.training import RunConfig
from localvit.training.overrides import with_overrides

CONFIGS = {
    name: with_overrides(RunConfig(), {"model.locality": {"expansion_ratio": ratio}, "input.image_size": [32, 32]})
    for name, ratio in {"one": 1, "two": 2, "four": 4}.items()
} | {"plain": RunConfig()}


@pytest.mark.parametrize(
    ("claim", "weights"),
    [
        (Claim("two", "one"), [{"two": 1, "one": -1}]),
        (Claim(["two", "four"], "one"), [{"two": 0.5, "four": 0.5, "one": -1}]),
        (Claim("two", ["one", "plain"]), [{"two": 1, "one": -0.5, "plain": -0.5}]),
        (Claim("curve", "plain"), [{"one": 0.5, "four": 0.5, "plain": -1}]),
        (Claim(each={"two": "one", "four": "two"}), [{"two": 1, "one": -1}, {"four": 1, "two": -1}]),
        (Claim(slope="model.locality.expansion_ratio"), [{"one": -0.5, "two": 0, "four": 0.5}]),
        (Claim("curve", "other", slope="model.locality.expansion_ratio"), [{"one": 0.5, "four": -0.5, "two": 0}]),
    ],
)
def test_claims_are_contrasts(claim: Claim, weights: list[dict[str, float]]) -> None:
    curves = {"curve": ["one", "four"], "other": ["one", "two"]}
    if claim.better == "curve" and claim.slope:
        # Slopes of two lines through two points: (four - one) / 2 and (two - one) / 1.
        weights = [{"four": 0.5, "one": -0.5 + 1, "two": -1}]
    found = claim.contrasts(CONFIGS, curves)
    assert [{name: pytest.approx(weight) for name, weight in contrast.weights.items()} for contrast in found] == weights
    assert all(abs(sum(contrast.weights.values())) < 1e-12 for contrast in found)


@pytest.mark.parametrize(
    ("claim", "text"),
    [
        (Claim("two", "one"), "two > one"),
        (Claim("two", "one", expect="any"), "two against one"),
        (Claim("two", "one", expect="not less", margin=0.5), "two ≥ one"),
        (Claim(["two", "four"], "one"), "mean of two, four > one"),
        (Claim(slope="model.locality.expansion_ratio"), "grows with expansion ratio"),
        (Claim(each={"two": "one"}, name="all gain"), "all gain"),
    ],
)
def test_claims_say_what_they_claim(claim: Claim, text: str) -> None:
    assert str(claim) == text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "a claim needs better and than, or each, or slope"),
        ({"better": "two"}, "give both"),
        ({"better": "two", "than": "one", "each": {"two": "one"}}, "a claim needs better and than, or each, or slope"),
        ({"better": "two", "than": "one", "margin": 0}, "margin of a claim is 0; it must be more than 0"),
        ({"better": "two", "than": "one", "expect": "not less"}, "say by how many points at most with margin"),
    ],
)
def test_claims_without_a_meaning_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Claim(**values)


def test_names_and_slopes_must_exist() -> None:
    with pytest.raises(ValueError, match="a claim names 'tow'; it must be one of the variants: one, two, four, plain"):
        Claim("tow", "one").contrasts(CONFIGS, {})
    with pytest.raises(ValueError, match=r"has the slope over training\.epochs, which needs at least two positive"):
        Claim(slope="training.epochs").contrasts(CONFIGS, {})


def test_a_price_needs_a_limit() -> None:
    with pytest.raises(ValueError, match="sets no limit"):
        Price("two", "one")
    assert Price("two", "one", macs=1.05).limits() == {"macs": 1.05}


def test_numbers_are_found_by_their_dotted_names() -> None:
    assert number(CONFIGS["two"], "model.locality.expansion_ratio") == 2
    assert number(CONFIGS["two"], "input.image_size") == 32
    assert number(CONFIGS["plain"], "model.locality.expansion_ratio") is None
    assert number(CONFIGS["two"], "model.name") is None
    assert number(CONFIGS["two"], "hardware.compile") is None
