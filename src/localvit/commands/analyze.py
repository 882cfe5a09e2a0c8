"""``localvit analyze``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse.typing import PositiveInt

from localvit.commands.parser import Parser, command_parser
from localvit.data.config import DataConfig
from localvit.system.terminal import ERRORS, RESULTS

_DESCRIPTION = """Look inside trained models: how far tokens look, which pixels reach them, whether layers smooth or
sharpen, which layers do the same, what kernels have become, and what decisions rest on. Models are files of weights or
names known to timm, side by side; or all runs of a study, with intervals over seeds. Writes report.html, report.md with
pictures, results.json and results.csv. docs/analysis.md explains the measures."""


def parser() -> Parser:
    """Options of the command."""
    parser = command_parser(
        "analyze",
        "MODEL ... (--data.root FOLDER | --images FOLDER) | --study FOLDER [--OPTION VALUE ...]",
        _DESCRIPTION,
    )
    parser.add_argument("models", type=str, nargs="*", metavar="MODEL", help="files of weights, or names known to timm")
    parser.add_argument("--study", type=str | None, default=None, help="folder of a study: analyze all of its runs")
    parser.add_argument("--model", type=str | None, default=None, help="model name, for files that do not contain it")
    parser.add_argument("--pretrained", type=bool, default=False, help="timm's weights for models by name")
    parser.add_argument(
        "--images", type=str | None, default=None, help="folder of images without labels, in place of --data"
    )
    parser.add_argument(
        "--count", type=PositiveInt, default=512, help="most images to use, evenly spaced over the held-out ones"
    )
    parser.add_argument("--measures", type=str, nargs="+", default=[], help="names of measures (default: all)")
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, mps, or auto for the best available")
    parser.add_argument("--threads", type=PositiveInt | None, default=None, help="CPU threads (default: PyTorch's)")
    parser.add_argument(
        "--output",
        type=str | None,
        default=None,
        help="folder for the report (default: runs/analysis, or analysis in the folder of the study)",
    )
    parser.add_fields(DataConfig, "data")
    return parser


def command(options: Any) -> Callable[[], int]:
    """Measure, print the answers and write the report."""
    import torch

    from localvit.analysis.analysis import require_measures
    from localvit.analysis.reporting.report import write_report
    from localvit.analysis.reporting.terminal import print_answers
    from localvit.analysis.session import analyze_models, analyze_study
    from localvit.evaluation.predict import find_device
    from localvit.studies.reporting.inside import ANALYSIS

    if bool(options.models) == (options.study is not None):
        raise ValueError("give models (files, or names known to timm), or a study with --study, and not both")
    measures = require_measures(options.measures)
    images = None if options.images is None else Path(options.images)

    def analysis() -> int:
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        device = find_device(options.device)
        shared = {"images": images, "count": options.count, "device": device, "console": ERRORS}
        if options.study is not None:
            folder = Path(options.study)
            found = analyze_study(folder, options.data, measures, **shared)
            output = Path(options.output or folder / ANALYSIS)
        else:
            found = analyze_models(
                options.models, options.data, measures, model=options.model, pretrained=options.pretrained, **shared
            )
            output = Path(options.output or "runs/analysis")
        page = write_report(found, output)
        print_answers(found, RESULTS)
        RESULTS.print(f"Report: {page.resolve()}", soft_wrap=True)
        return 0

    return analysis
