"""Numbers and sentences of a report: against textbook formulas, and the same in every file."""

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import timm
from made_up_study import ACCURACIES, COSTS, ODD, PAIRS, PAIRS_ACCURACIES, STUDY, summary
from torch import nn

from localvit import LocalityConfig
from localvit.locality.localize import localize
from localvit.studies.record import Costs
from localvit.studies.reporting.own_chart import depthwise_layers
from localvit.studies.reporting.report import write_report
from localvit.studies.reporting.wording import agreement_word, answer, signed
from localvit.training import ModelConfig

T_2 = 4.302653  # the 97.5 % quantile of Student's t with 2 degrees of freedom


def half_width(values: list[float]) -> float:
    mean = sum(values) / 3
    return T_2 * math.sqrt(sum((value - mean) ** 2 for value in values) / 2 / 3)


def p_value(values: list[float]) -> float:
    """Of a paired t-test with 2 degrees of freedom, whose distribution has a closed form."""
    t = T_2 * abs(sum(values) / 3) / half_width(values)
    return 1 - t / math.sqrt(2 + t * t)


def differences(one: str, other: str) -> list[float]:
    return [a - b for a, b in zip(ACCURACIES[one], ACCURACIES[other], strict=True)]


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
    assert baseline["gain"] == {
        **{"mean": 0, "low": 0, "high": 0, "p_value": None, "p_holm": None, "verdict": "baseline", "over": None}
    }
    assert odd["name"] == ODD
    assert odd["accuracy"]["per_seed"] == [98.0, 97.5, 98.2]
    assert odd["accuracy"]["mean"] == pytest.approx(97.9)
    assert odd["accuracy"]["low"] == pytest.approx(97.9 - half_width([98.0, 97.5, 98.2]), abs=1e-5)
    gain = differences(ODD, "DeiT")
    assert odd["gain"]["mean"] == pytest.approx(4.4)
    assert odd["gain"]["high"] == pytest.approx(4.4 + half_width(gain), abs=1e-5)
    assert odd["gain"]["p_value"] == pytest.approx(p_value(gain), abs=1e-6)
    # Three tests: 4.4 has the smallest p, and what Holm makes of it is a lower bound of the others.
    assert odd["gain"]["p_holm"] == pytest.approx(3 * p_value(gain), abs=1e-5)
    assert (odd["gain"]["verdict"], odd["gain"]["over"]) == ("better", "DeiT")
    assert odd["training_memory"] == 120 * 2**20
    assert [claim["agreement"] for claim in values["claims"]] == ["agrees", "agrees", "differs"]
    assert values["claims"][2]["difference"]["mean"] == pytest.approx(-2.0)
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
            assert cells[5] == latex[5] == row["p_holm"][:5] == f"{gain['p_holm']:.3f}"
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
    assert "| DeiT \\> no depth-wise | −2.00 ± 1.24 |" in markdown  # noqa: RUF001
    assert "    localvit study drawn.yaml" in markdown


def test_what_is_not_known_is_null_or_empty(tmp_path: Path) -> None:
    accuracies = {"DeiT": (93.0, 94.0, 93.5), "no depth-wise": (None, "died", None), ODD: (None, 97.0, "died\ntwice")}
    values, rows, markdown, tex = read(tmp_path, accuracies=accuracies, costs={"DeiT": Costs(10, 20)})
    _, none, one = values["variants"]
    assert none["accuracy"] == {"mean": None, "low": None, "high": None, "per_seed": []}
    assert one["accuracy"] == {"mean": 97.0, "low": None, "high": None, "per_seed": [97.0]}
    assert (none["gain"], one["gain"], one["macs"], one["seeds"]) == (None, None, None, [1])
    assert [rows[1][name] for name in ("accuracy_mean", "gain_mean", "p_holm", "macs")] == [""] * 4
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
    assert latex_rows(tex)[1][1:] == ["--"] * 6


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
    half, holm = half_width(differences(ODD, "DeiT")), 3 * p_value(differences(ODD, "DeiT"))
    assert found == [
        f"The best of 2 variants, {ODD}, reaches 97.90 % where DeiT reaches 93.50 %: +4.40 points (95 % interval "
        f"+{4.4 - half:.2f} to +{4.4 + half:.2f}, Holm-corrected p = {holm:.3f}), for +7.8 % multiply-accumulates "
        "and at 0.50\N{MULTIPLICATION SIGN} the training speed.",
        "Of the paper's 3 claims this study finds 2 and contradicts 1.",
    ]


def test_a_gain_without_evidence_is_not_called_one() -> None:
    accuracies = {"DeiT": (93.0, 94.0, 93.5), "no depth-wise": (93.1, 93.9, 93.4), ODD: (94.5, 93.0, 94.0)}
    found = sentences(accuracies=accuracies)
    assert found[0].startswith("There is no evidence at this size that any of 2 variants beats DeiT; the best, <b>odd")
    assert "93.83 % where DeiT reaches 93.50 %: +0.33 points" in found[0]
    assert found[1] == "This study can decide none of the paper's 3 claims."
    worse = {"DeiT": (93.0, 94.0, 93.5), "no depth-wise": (90.0, 91.0, 90.4), ODD: (92.0, 93.0, 92.4)}
    found = sentences(accuracies=worse)
    assert found[0].startswith("None of 2 variants beats DeiT; the nearest, <b>odd")
    assert "\N{MINUS SIGN}1.03 points" in found[0]


def test_the_highest_mean_is_not_the_best_without_evidence() -> None:
    accuracies = {"DeiT": (93.0, 94.0, 93.5), "no depth-wise": (95.0, 96.0, 95.6), ODD: (99.0, 92.0, 99.0)}
    found = sentences(accuracies=accuracies, claims=[])
    assert found[0].startswith("1 of 2 variants is better than DeiT; it is no depth-wise, which reaches 95.53 %")


def test_pairs_are_counted_and_named() -> None:
    assert sentences(PAIRS, PAIRS_ACCURACIES, {}) == [
        "1 of 2 variants is better than its baseline (A+); for 1 there is no evidence at this size (B+); "
        "gains go from +0.33 to +3.00 points.",
        "Of the paper's 2 claims this study finds 1, contradicts none and cannot decide 1.",
    ]


def test_an_unfinished_study_says_so() -> None:
    nothing: dict[str, list[float | str | None]] = {name: [None] * 3 for name in STUDY.variants}
    assert sentences(accuracies=nothing)[0] == "No run has finished yet."
    assert sentences(accuracies=nothing)[-1] == "This is not the whole study: of 9 runs 9 are still to be trained."
    half_way = {**nothing, "no depth-wise": [95.0, "died", None]}
    assert "DeiT, the baseline, has no finished run yet" in sentences(accuracies=half_way)[0]
    assert sentences(accuracies=half_way)[-1].endswith("of 9 runs 1 failed and 7 are still to be trained.")
    assert sentences(accuracies={**nothing, "DeiT": [93.0, None, None]})[0].startswith("Only DeiT has finished runs")
    one_seed = {**nothing, "DeiT": [93.0, None, None], ODD: [94.0, None, None]}
    assert "+1.00 points, with too few seeds of both for an interval" in sentences(accuracies=one_seed)[0]
    two_of_three = {**ACCURACIES, ODD: [98.0, 97.9, None]}
    assert "+4.45 points on the 2 seeds of both (95 %" in sentences(accuracies=two_of_three)[0]
    empty_pairs: dict[str, list[float | str | None]] = {name: [None] * 3 for name in PAIRS.variants}
    assert "nothing to compare" in sentences(PAIRS, empty_pairs, {})[0]


def test_agreement_is_not_claimed_where_the_paper_says_nothing() -> None:
    silent = summary(paper_finding="", claims=[])
    assert agreement_word(silent) == "not asked"
    assert answer(silent)[-1] == "The paper does not ask this."
    assert agreement_word(summary(claims=[])) == "not tested"
    assert agreement_word(summary()) == "differs"
    assert sentences(paper_finding="")[-1] == "Of 3 claims this study finds 2 and contradicts 1."


def test_costs_are_only_told_where_they_are_known() -> None:
    assert sentences(costs={})[0].endswith("p = 0.032).")
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
