"""docs/results/analysis.md: it says what the kept analyses say, and its rank correlations are those of SciPy."""

import itertools
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import permutation_test, spearmanr

DOCS = Path(__file__).parents[2] / "docs"
PAGE: dict[str, Any] = runpy.run_path(str(DOCS / "analysis_results.py"))
RANKS: dict[str, Any] = runpy.run_path(str(DOCS / "rank_correlation.py"))

NAMES = "abcdefghi"
FIRST = dict(zip(NAMES, [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0, 5.0], strict=True))
SECOND = dict(zip(NAMES, [2.0, 7.0, 1.0, 8.0, 2.5, 8.0, 1.5, 8.5, 4.0], strict=True))


def test_the_page_is_written_from_the_kept_analyses() -> None:
    assert (DOCS / "results" / "analysis.md").read_text() == PAGE["page"]()


def test_the_correlation_of_one_family_is_that_of_scipy() -> None:
    names = "acefgh"  # no ties: with them, SciPy's two-sided p-value is twice that of one side
    first, second = (np.array([one[name] for name in names]) for one in (FIRST, SECOND))

    def correlation(dealt: Any) -> Any:
        return spearmanr(dealt, second).statistic

    expected = permutation_test([first], correlation, permutation_type="pairings", n_resamples=10_000)
    found = RANKS["rank_correlation"](FIRST, SECOND, [names])
    assert found.mean == pytest.approx(spearmanr(first, second).statistic)
    assert found.p_value == pytest.approx(expected.pvalue)


def test_accuracies_are_dealt_out_within_families_only() -> None:
    families = [NAMES[:4], NAMES[4:8]]
    first, second = ([[one[name] for name in names] for names in families] for one in (FIRST, SECOND))

    def mean(dealt: Any) -> float:
        return float(np.mean([spearmanr(*pair).statistic for pair in zip(dealt, second, strict=True)]))

    means = [mean(dealt) for dealt in itertools.product(*map(itertools.permutations, first))]
    found = RANKS["rank_correlation"](FIRST, SECOND, families)
    assert found.mean == pytest.approx(mean(first))
    assert found.p_value == pytest.approx(np.mean(np.abs(means) >= abs(mean(first)) - 1e-9))


def test_a_family_without_an_order_is_left_out() -> None:
    same = dict.fromkeys(NAMES, 1.0)
    rank_correlation = RANKS["rank_correlation"]
    assert rank_correlation(FIRST, same, [NAMES]).of == (None,)
    assert rank_correlation(FIRST, SECOND, ["abc"]).mean is None  # too few
    alone, beside = (rank_correlation(FIRST, SECOND, families) for families in ([NAMES[:5]], [NAMES[:5], "fgh"]))
    assert beside.of == (*alone.of, None)
    assert (beside.mean, beside.p_value) == (alone.mean, alone.p_value)
