"""Numbers and sentences of a report: against textbook formulas, and the same in every file."""

import csv
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import statsmodels.formula.api as smf
import timm
from made_up_study import ACCURACIES, COSTS, ODD, PAIRS, PAIRS_ACCURACIES, STUDY, summary
from scipy import stats
from torch import nn

from localvit import LocalityConfig
from localvit.locality.localize import localize
from localvit.studies.claims import Claim
from localvit.studies.record import Costs
from localvit.studies.reporting.own_chart import depthwise_layers
from localvit.studies.reporting.report import write_report
from localvit.studies.reporting.wording import agreement_word, answer, signed
from localvit.training import ModelConfig

T_2 = 4.302653  # the 97.5 % quantile of Student's t with 2 degrees of freedom


def half_width(values: list[float]) -> float:
    mean = sum(values) / 3
    return T_2 * math.sqrt(sum((value - mean) ** 2 for value in values) / 2 / 3)


def pooled(claims: int) -> tuple[float, float]:
    """Standard error of a difference of two of the three variants, and the quantile of the interval for some claims."""
    frame = pd.DataFrame(
        [(name, seed, value) for name, values in ACCURACIES.items() for seed, value in enumerate(values)],
        columns=["variant", "seed", "accuracy"],
    )
    fit = smf.ols("accuracy ~ C(variant) + C(seed)", frame).fit()
    return math.sqrt(fit.mse_resid * 2 / 3), float(stats.t.isf(0.025 / claims, fit.df_resid))


def read(folder: Path, **changes: Any) -> tuple[dict[str, Any], list[dict[str, str]], str, str]:
    write_report([summary(**changes)], folder)
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    text = (folder / "results.json").read_text()
    values = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    return values, rows, (folder / "report.md").read_text(), (folder / "results.tex").read_text()


def latex_rows(tex: str) -> list[list[str]]:
    body = tex.partition(r"\midrule")[2].partition(r"\bottomrule")[0]
    return [[cell.strip() for cell in re.split(r"(?<!\\)&", line)] for line in body.strip().split(r"\\")[:-1]]


def markdown_rows(text: str) -> list[list[str]]:
    """Cells of the first table."""
    lines = text.partition("## Results")[2].partition("Means and")[0].strip().splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_json_has_what_programs_read_in_its_order(tmp_path: Path) -> None:
    values, *_ = read(tmp_path)
    assert list(values)[:4] == ["study", "data", "baseline", "variants"]
    assert (values["study"], values["data"], values["baseline"]) == ("drawn", "digits", "DeiT")
    for variant in values["variants"]:
        assert list(variant)[:5] == ["name", "parameters", "macs", "accuracy", "gain"]
    baseline, _, odd = values["variants"]
    assert baseline["gain"] == {"mean": 0, "low": 0, "high": 0, "over": None}
    assert odd["name"] == ODD
    assert odd["accuracy"]["per_seed"] == [98.0, 97.5, 98.2]
    assert odd["accuracy"]["mean"] == pytest.approx(97.9)
    assert odd["accuracy"]["low"] == pytest.approx(97.9 - half_width([98.0, 97.5, 98.2]), abs=1e-5)
    error, quantile = pooled(claims=1)
    assert odd["gain"]["mean"] == pytest.approx(4.4)
    assert odd["gain"]["high"] == pytest.approx(4.4 + quantile * error)
    assert odd["gain"]["over"] == "DeiT"
    assert odd["training_memory"] == 120 * 2**20
    assert [claim["agreement"] for claim in values["claims"]] == ["agrees", "agrees", "differs"]
    (first,), (third,) = (values["claims"][place]["parts"] for place in (0, 2))
    # Three claims share the error rate.
    assert first["low"] == pytest.approx(4.4 - pooled(claims=3)[1] * error)
    assert first["p_value"] == pytest.approx(3 * 2 * stats.t.sf(4.4 / error, 4))
    assert first["p_sign_flip"] == 2 / 2**3
    assert (first["p_improvement"], first["verdict"], first["points"]) == (1.0, "better", 2.6)
    assert third["mean"] == pytest.approx(-2.0)
    assert values["agreement"] == "differs"


def test_all_files_have_the_same_numbers(tmp_path: Path) -> None:
    values, rows, markdown, tex = read(tmp_path)
    in_markdown, in_latex = markdown_rows(markdown), latex_rows(tex)
    assert len(rows) == len(in_markdown) == len(in_latex) == len(values["variants"]) == 3
    for variant, row, cells, latex in zip(values["variants"], rows, in_markdown, in_latex, strict=True):
        accuracy, gain = variant["accuracy"], variant["gain"]
        assert (row["study"], row["name"], int(row["macs"])) == ("drawn", variant["name"], variant["macs"])
        assert float(row["accuracy_low"]) == accuracy["low"]
        assert [float(row[f"accuracy_run_{place}"]) for place in range(3)] == accuracy["per_seed"]
        assert float(row["gain_high"]) == gain["high"]
        assert row["gain_over"] == (gain["over"] or "")
        assert float(row["training_images_per_second"]) == variant["training_images_per_second"]
        assert cells[1] == f"{variant['parameters']:,}"
        half = f"{accuracy['high'] - accuracy['mean']:.2f}"
        assert cells[3] == f"{accuracy['mean']:.2f} ± {half}"
        assert latex[3] == rf"${accuracy['mean']:.2f} \pm {half}$"
        assert latex[1] == f"{variant['parameters'] / 1e6:.3f}"
        if gain["over"]:
            assert cells[4] == f"{gain['mean']:+.2f} ± {gain['high'] - gain['mean']:.2f}"
            assert latex[4] == rf"${gain['mean']:+.2f} \pm {gain['high'] - gain['mean']:.2f}$"


def test_latex_prints_names_letter_by_letter(tmp_path: Path) -> None:
    *_, tex = read(tmp_path)
    assert latex_rows(tex)[2][0] == (
        r"\textless{}b\textgreater{}odd\textless{}/b\textgreater{} \& ''depth-wise'' 100 \%\_\$"
    )
    assert (
        r"\caption{Is \textless{}b\textgreater{}this\textless{}/b\textgreater{} escaped \& shown, 100 \% of it?" in tex
    )
    assert r"\label{tab:drawn}" in tex
    begun, ended = (re.findall(rf"\\{end}{{(\w+)}}", tex) for end in ("begin", "end"))
    assert begun == ended[::-1] == ["table", "tabular"]
    columns = re.search(r"\\begin{tabular}{(\w+)}", tex)
    assert columns is not None
    rows = [line for line in tex.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(columns[1]) - 1}
    assert tex.count("{") - tex.count(r"\{") == tex.count("}") - tex.count(r"\}")
    assert [tex.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]


def test_markdown_shows_names_letter_by_letter(tmp_path: Path) -> None:
    *_, markdown, _ = read(tmp_path)
    assert markdown.startswith(r"# Is \<b\>this\</b\> escaped \& shown, 100 % of it?")
    assert markdown_rows(markdown)[2][0] == r'\<b\>odd\</b\> \& "depth-wise" 100 %\_\$'
    half = pooled(claims=3)[0] * pooled(claims=3)[1]
    assert f"| DeiT \\> no depth-wise | −2.00 ± {half:.2f} |" in markdown  # noqa: RUF001
    assert "    localvit study drawn.yaml" in markdown


def test_what_is_not_known_is_null_or_empty(tmp_path: Path) -> None:
    accuracies = {"DeiT": (93.0, 94.0, 93.5), "no depth-wise": (None, "died", None), ODD: (None, 97.0, "died\ntwice")}
    values, rows, markdown, tex = read(tmp_path, accuracies=accuracies, costs={"DeiT": Costs(10, 20)})
    _, none, one = values["variants"]
    assert none["accuracy"] == {"mean": None, "low": None, "high": None, "per_seed": []}
    assert one["accuracy"] == {"mean": 97.0, "low": None, "high": None, "per_seed": [97.0]}
    assert (none["gain"], one["gain"], one["macs"], one["seeds"]) == (None, None, None, [1])
    assert [rows[1][name] for name in ("accuracy_mean", "gain_mean", "macs")] == [""] * 3
    assert [rows[2][f"accuracy_run_{place}"] for place in range(3)] == ["", "97.0", ""]
    assert rows[0]["macs"] == "20"
    assert values["failed"] == [
        {"variant": "no depth-wise", "seed": 1, "error": "died"},
        {"variant": ODD, "seed": 2, "error": "died\ntwice"},
    ]
    assert [(run["variant"], run["seed"]) for run in values["missing"]] == [
        *(("no depth-wise", 0), (ODD, 0), ("no depth-wise", 2))
    ]
    assert not re.search(r"\bnan\b|None", markdown + tex)
    assert "      died\n      twice" in markdown
    assert latex_rows(tex)[1][1:] == ["--"] * 5


def test_several_studies_share_files(tmp_path: Path) -> None:
    write_report([summary(), summary(PAIRS, PAIRS_ACCURACIES, {})], tmp_path)
    values = json.loads((tmp_path / "results.json").read_text())
    assert [study["study"] for study in values["studies"]] == ["drawn", "pairs"]
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert [row["study"] for row in rows] == ["drawn"] * 3 + ["pairs"] * 4
    assert [row["gain_over"] for row in rows[3:]] == ["", "A", "", "B"]
    labels = re.findall(r"\\label{(.*?)}", (tmp_path / "results.tex").read_text())
    assert labels == ["tab:drawn", "tab:pairs-tiny"]
    markdown = (tmp_path / "report.md").read_text()
    assert markdown.index("at a glance") < markdown.index("| Does it help others? | pairs, tiny |")
    assert markdown.count("## Reproduce it") == 2


def sentences(*args: Any, **changes: Any) -> list[str]:
    return [sentence.replace("\N{NO-BREAK SPACE}", " ") for sentence in answer(summary(*args, **changes))]


def test_the_answer_is_a_sentence_made_of_the_numbers() -> None:
    found = sentences()
    half = math.prod(pooled(claims=1))
    assert found == [
        f"The best of 2 variants, {ODD}, reaches 97.90 %, and DeiT 93.50 %: +4.40 points (95 % interval "
        f"+{4.4 - half:.2f} to +{4.4 + half:.2f}), for +7.8 % multiply-accumulates and at "
        "0.50\N{MULTIPLICATION SIGN} the training speed.",
        "Of the paper's 3 claims, this study finds 2 and contradicts 1.",
    ]


def test_claims_of_its_own_are_not_called_the_papers() -> None:
    first, *others = STUDY.claims
    mixed = [replace(first, finding="depth-wise helps"), *others]
    assert sentences(claims=mixed)[1] == "Of its 3 claims, this study finds 2 and contradicts 1."


def test_a_gain_without_evidence_is_not_called_one() -> None:
    accuracies = {"DeiT": (93.0, 94.0, 93.5), "no depth-wise": (93.1, 93.9, 93.4), ODD: (94.5, 93.0, 94.0)}
    found = sentences(accuracies=accuracies)
    assert found[0].startswith("None of 2 variants surely beats DeiT. The best, <b>odd")
    assert "reaches 93.83 %, and DeiT 93.50 %: +0.33 points" in found[0]
    assert found[1] == "This study cannot decide all of the paper's 3 claims."
    worse = {"DeiT": (93.0, 94.0, 93.5), "no depth-wise": (90.0, 91.0, 90.4), ODD: (92.0, 93.0, 92.4)}
    found = sentences(accuracies=worse)
    assert found[0].startswith("None of 2 variants beats DeiT. The best, <b>odd")
    assert "\N{MINUS SIGN}1.03 points" in found[0]


def test_locality_is_told_before_the_whole_change() -> None:
    found = sentences(isolates={ODD: "no depth-wise"})
    half = math.prod(pooled(claims=1))
    assert found[0] == (
        f"Locality itself brings +2.40 points (95 % interval +{2.4 - half:.2f} to +{2.4 + half:.2f}): that is what "
        f"{ODD} reaches more than no depth-wise, which differs in locality alone."
    )
    assert found[1].startswith(f"The whole change from DeiT to {ODD} brings +4.40 points (95 % interval")
    both = sentences(PAIRS, PAIRS_ACCURACIES, {}, isolates={"A+": "A", "B+": "B"})
    assert both[0] == (
        "Locality itself brings +0.33 to +3.00 points over controls that differ in locality alone; 1 of 2 intervals "
        "lie above 0."
    )


def test_pairs_are_counted() -> None:
    assert sentences(PAIRS, PAIRS_ACCURACIES, {}) == [
        "2 of 2 variants have a higher mean than their baselines; gains range from +0.33 to +3.00 points.",
        "Of the paper's 2 claims, this study finds 1 and cannot decide 1.",
    ]


def test_equality_is_told_with_its_margin(tmp_path: Path) -> None:
    alike = {"DeiT": (93.0, 94.0, 93.5), "no depth-wise": (93.1, 93.9, 93.5), ODD: (92.9, 94.1, 93.5)}
    values, _, markdown, _ = read(tmp_path, accuracies=alike, margin=1.0)
    assert [claim["agreement"] for claim in values["claims"]] == ["equal"] * 3
    assert markdown.count("equal within 1 point ") == 3
    assert "Differences within 1 point count as equal." in markdown
    assert sentences(accuracies=alike, margin=1.0)[1] == "This study finds equality for all of the paper's 3 claims."


def test_an_unfinished_study_says_so() -> None:
    nothing: dict[str, list[float | str | None]] = {name: [None] * 3 for name in STUDY.variants}
    assert sentences(accuracies=nothing)[0] == "No run has finished yet."
    assert sentences(accuracies=nothing)[-1] == "This is not the whole study: of 9 runs, 9 are still to be trained."
    half_way = {**nothing, "no depth-wise": [95.0, "died", None]}
    assert "DeiT, the baseline, has no finished run yet" in sentences(accuracies=half_way)[0]
    assert sentences(accuracies=half_way)[-1].endswith("of 9 runs, 1 failed and 7 are still to be trained.")
    assert sentences(accuracies={**nothing, "DeiT": [93.0, None, None]})[0].startswith("Only DeiT has finished runs")
    one_seed = {**nothing, "DeiT": [93.0, None, None], ODD: [94.0, None, None]}
    assert "+1.00 points, with too few seeds of both for an interval" in sentences(accuracies=one_seed)[0]
    two_of_three = {**ACCURACIES, ODD: [98.0, 97.9, None]}
    assert "+4.45 points (95 %" in sentences(accuracies=two_of_three)[0]
    empty_pairs: dict[str, list[float | str | None]] = {name: [None] * 3 for name in PAIRS.variants}
    assert "nothing to compare" in sentences(PAIRS, empty_pairs, {})[0]


def test_agreement_is_not_claimed_where_the_paper_says_nothing(tmp_path: Path) -> None:
    silent = summary(paper_finding="", claims=[])
    assert agreement_word(silent) == "not asked"
    *_, markdown, _ = read(tmp_path, paper_finding="", claims=[])
    assert "The paper does not ask this question." in markdown
    assert "All claims together" not in markdown
    assert answer(silent)[-1].startswith("Verdicts: ")
    assert agreement_word(summary(claims=[])) == "not tested"
    assert agreement_word(summary()) == "differs"
    assert sentences(paper_finding="")[-1] == "Of its 3 claims, this study finds 2 and contradicts 1."


def test_a_named_question_is_answered_with_its_figure() -> None:
    asked = summary(paper_finding="", claims=[Claim(better=ODD, than="DeiT", expect="any", name="what both add")])
    assert answer(asked)[-1].startswith("What both add: +4.40 points (95")


def test_costs_are_only_told_where_they_are_known() -> None:
    assert sentences(costs={})[0].endswith(f"to +{4.4 + math.prod(pooled(claims=1)):.2f}).")
    unmeasured = {name: Costs(cost.parameters, 1000) for name, cost in COSTS.items()}
    assert sentences(costs=unmeasured)[0].endswith(", for as many multiply-accumulates.")


@pytest.mark.parametrize(("value", "text"), [(1.234, "+1.23"), (-1.0, "\N{MINUS SIGN}1.00"), (-0.001, "0.00")])
def test_differences_carry_their_sign(value: float, text: str) -> None:
    assert signed(value) == text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, [False] * 3),
        ({"locality": {}}, [True] * 3),
        ({"locality": {}, "layers": "low"}, [True, False, False]),
        ({"locality": {}, "layers": ["low", 2]}, [True, False, True]),
        ({"locality": {"depthwise": False}, "other_layers": {}, "layers": [1]}, [True, False, True]),
    ],
)
def test_layers_with_the_convolution_are_those_of_the_model(values: dict[str, Any], expected: list[bool]) -> None:
    given: dict[str, Any] = {
        name: LocalityConfig(**value) if name in ("locality", "other_layers") else value
        for name, value in values.items()
    }
    arguments: dict[str, Any] = {"depth": 3, "embed_dim": 12, "num_heads": 3}
    config = ModelConfig(name="deit_tiny_patch16_224", arguments=arguments, **given)
    assert depthwise_layers(config) == (expected, 3)
    model: Any = timm.create_model(config.name, **arguments)
    if config.locality is not None:
        localize(model, config.locality, layers=config.layers)
    if config.other_layers is not None:
        localize(model, config.other_layers, layers=[0, 2])
    convolutions = [
        any(isinstance(part, nn.Conv2d) and part.groups > 1 for part in block.modules()) for block in model.blocks
    ]
    assert convolutions == expected
