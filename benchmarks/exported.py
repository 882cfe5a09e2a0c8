"""Every model of the paper and its baseline in every runtime and precision: difference, agreement, latency, size.

    pip install -e ".[onnx,openvino,quantize]"
    python benchmarks/exported.py                       # all pairs in all forms; goes on where it stopped
    python benchmarks/exported.py --pairs localvit_t2t_7    # by their LocalViT

The weights are random, because what is measured does not depend on them, and accuracy is no question here. The images
are crops of the two photographs that come with scikit-learn. The forms of a baseline and its twin take turns in one
process, and medians over the rounds count, also of the ratios. Writes ``benchmarks/results/exported.json`` and the
table ``exported.md`` after each pair.
"""

import argparse
import json
import statistics
import tempfile
from collections import Counter
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from localvit import ModelDescription, fuse
from localvit.benchmark import provenance
from localvit.benchmark.contestant import has_locality
from localvit.benchmark.measurement import Timed, take_turns
from localvit.data import InputConfig
from localvit.data.transforms import evaluation_transform
from localvit.evaluation.agreement import agreement
from localvit.models.catalog import PUBLISHED
from localvit.models.exported import export_model, load_exported
from localvit.models.weights.model_file import create_model
from localvit.system.files import write_text
from localvit.system.machine import describe
from localvit.system.terminal import ERRORS

OUTPUT = Path(__file__).parent / "results" / "exported.json"
PAIRS = {model.name: (model.baseline, model.name) for model in PUBLISHED if model.baseline is not None}
PYTORCH = "PyTorch fp32"
FORMS: dict[str, tuple[str, Any, bool]] = {  # ending, precision, int8
    "ONNX Runtime fp32": (".onnx", "fp32", False),
    "OpenVINO fp32": (".xml", "fp32", False),
    "OpenVINO bf16": (".xml", "bf16", False),
    "ONNX Runtime int8": (".onnx", "fp32", True),
    "OpenVINO int8": (".xml", "fp32", True),
    "PyTorch package fp32": (".pt2", "fp32", False),
    "PyTorch package int8": (".pt2", "fp32", True),
}
ROUNDS = {1: 15, 16: 5}  # by the number of images at a time
SECONDS_A_TURN = 0.15
COMPARED, CALIBRATED = 32, 32


def photographs(description: ModelDescription, count: int) -> Tensor:
    """Images (M, C, H, W): squares of two photographs, evenly spaced."""
    from PIL import Image

    transform = evaluation_transform(description.input)
    crops = []
    for photograph in load_sample_images().images:
        picture = Image.fromarray(photograph)
        room = picture.width - picture.height
        for place in range(count // 2):
            left = round(room * place / (count // 2 - 1))
            crops.append(transform(picture.crop((left, 0, left + picture.height, picture.height))))
    return torch.stack(crops)


def forms_of(name: str, folder: Path, batch: int, forms: list[str]) -> tuple[dict[str, nn.Module], dict[str, Any]]:
    """A model in all forms, for one number of images at a time, and how each agrees with PyTorch."""
    description = ModelDescription(name, {}, tuple(map(str, range(1000))), InputConfig())
    torch.manual_seed(0)
    model = create_model(name, description.input, num_classes=1000).eval()
    photos = photographs(description, COMPARED)
    modules: dict[str, nn.Module] = {PYTORCH: fuse(model) if has_locality(model) else model}
    facts: dict[str, Any] = {PYTORCH: {"mb": sum(4 * tensor.numel() for tensor in model.state_dict().values()) / 1e6}}
    for form in forms:
        ending, precision, int8 = FORMS[form]
        path = folder / f"{name}-{batch}{'-int8' if int8 else ''}{ending}"
        if not path.exists():
            export_model(model, description, path, batch=batch, calibration=[photos[:CALIBRATED]] if int8 else None)
        modules[form], _ = load_exported(path, precision=precision, trusted=True)
        found = agreement(model, modules[form], [(photos, torch.zeros(len(photos)))], labeled=False)
        files = [path, *([path.with_suffix(".bin")] if ending == ".xml" else [])]
        facts[form] = {
            "largest_difference": found.largest_difference,
            "largest_logit": found.largest_logit,
            "same_class": found.same_class,
            "mb": sum(file.stat().st_size for file in files) / 1e6,
        }
    return modules, facts


def measure(pair: str, forms: list[str], folder: Path) -> dict[str, Any]:
    """Both models of a pair: agreement, and images per second with each number of images."""
    found: dict[str, Any] = {}
    for batch, rounds in ROUNDS.items():
        modules = {}
        for model in PAIRS[pair]:
            modules[model], facts = forms_of(model, folder, batch, forms)
            for of_form in found.setdefault(model, facts).values():
                of_form.setdefault("rates", {})
        images_BCHW = torch.randn(batch, 3, 224, 224)
        contestants = {}
        for form in (PYTORCH, *forms):  # the two of a form are neighbors, so that a slow moment affects both
            for model in PAIRS[pair]:
                step = partial(modules[model][form], images_BCHW)
                contestants[model, form] = Timed(step, batch, prepare=step)
        with torch.inference_mode():
            turns = take_turns(contestants, rounds, seconds_a_turn=SECONDS_A_TURN)
        for (model, form), rates in turns.items():
            if isinstance(rates, Exception):
                raise rates
            found[model][form]["rates"][str(batch)] = rates
    return found


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "# Exported models",
        "",
        "Written by `python benchmarks/exported.py`. Random weights, 224 x 224 pixels, one graph for each number of",
        "images. *Difference* is the largest of two logits, with the largest logit in brackets; *same class* is of",
        f"{COMPARED} crops of photographs, and of little meaning for int8 with random weights, whose logits lie close",
        "together. *Ratio* is the speed of a LocalViT relative to its baseline in the same form: the median over the",
        "rounds in which both took a turn.",
        "",
        *machines(results["measured"]),
        "",
        "| model | form | MB | difference | same class | ms, batch 1 | ratio | images/s, batch 16 | ratio |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for pair, found in results["pairs"].items():
        baseline, twin = PAIRS[pair]
        for model in (baseline, twin):
            for form in (form for form in (PYTORCH, *FORMS) if form in found[model]):
                facts = found[model][form]
                rates = {batch: statistics.median(values) for batch, values in facts["rates"].items()}
                rivals = found[baseline][form]["rates"]
                ratios = {batch: median_ratio(values, rivals[batch]) for batch, values in facts["rates"].items()}
                shown = {batch: f"{ratio:.2f}" if model == twin else "" for batch, ratio in ratios.items()}
                speeds = f"{1000 / rates['1']:.1f} | {shown['1']} | {rates['16']:.0f} | {shown['16']}"
                lines.append(f"| {model} | {form} | {facts['mb']:.1f} | {_agreement(facts)} | {speeds} |")
    return "\n".join(lines) + "\n"


def note(measured: list[dict[str, Any]], pair: str, forms: list[str]) -> list[dict[str, Any]]:
    """Add that forms of a pair were measured now, to what was measured before and still counts."""
    others = [
        one if one["pair"] != pair else one | {"forms": [form for form in one["forms"] if form not in forms]}
        for one in measured
    ]
    return [*(one for one in others if one["forms"]), {"pair": pair, "forms": forms, "record": provenance()}]


def machines(measured: list[dict[str, Any]]) -> list[str]:
    """What was measured where; speeds of two machines do not compare."""
    places: dict[str, dict[str, list[str]]] = {}
    for one in measured:
        place = f"{one['record']['machine']}, {one['record']['threads']} threads"
        places.setdefault(place, {}).setdefault(one["pair"], []).extend(one["forms"])
    times = Counter(pair for pairs in places.values() for pair in pairs)
    lines = []
    for place, pairs in places.items():
        twins = [pair if times[pair] == 1 else f"{pair} ({', '.join(forms)})" for pair, forms in pairs.items()]
        lines.append(f"- {place}: {'; '.join(twins)}, beside their baselines")
    return lines


def median_ratio(rates: list[float], rivals: list[float]) -> float:
    """The median over rounds of one rate relative to the other in the same round."""
    return statistics.median(rate / rival for rate, rival in zip(rates, rivals, strict=True))


def _agreement(facts: dict[str, Any]) -> str:
    if "largest_difference" not in facts:
        return " | "
    return f"{facts['largest_difference']:.1e} ({facts['largest_logit']:.1f}) | {facts['same_class']:.0f} %"


def main() -> None:
    """Measure what is missing, pair by pair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), default=list(FORMS))
    parser.add_argument("--again", action="store_true", help="measure again what the results have")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--folder", type=Path, help="keep the exported files here, and use those that are here already")
    options = parser.parse_args()
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    with nullcontext(options.folder) if options.folder is not None else tempfile.TemporaryDirectory() as folder:
        run(options, Path(folder))


def run(options: argparse.Namespace, folder: Path) -> None:
    """Measure pair by pair, with the exported files in ``folder``; two pairs may have the same baseline."""
    results = json.loads(options.output.read_text()) if options.output.exists() else {"measured": [], "pairs": {}}
    for pair in track(options.pairs, describe(), console=ERRORS):
        before = results["pairs"].get(pair, {model: {} for model in PAIRS[pair]})
        forms = [form for form in options.forms if options.again or form not in before[pair]]
        if forms:
            found = {model: before[model] | facts for model, facts in measure(pair, forms, folder).items()}
            pairs = results["pairs"] | {pair: found}
            results["pairs"] = {name: pairs[name] for name in PAIRS if name in pairs}
            results["measured"] = note(results["measured"], pair, [PYTORCH, *forms])
            write_text(options.output, json.dumps(results, indent=1) + "\n")
            write_text(options.output.with_suffix(".md"), table(results))


if __name__ == "__main__":
    main()
