"""``localvit bench``."""

import itertools
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse.typing import PositiveInt
from rich import box
from rich.table import Table

from localvit.benchmark.setting import ROUNDS, Device, Mode, Precision, Setting
from localvit.commands.parser import Parser, command_parser
from localvit.system.terminal import ERRORS, RESULTS

if TYPE_CHECKING:
    from torch import nn

    from localvit.benchmark import BenchmarkResult, SettingResult

MODELS = ["deit_tiny_patch16_224", "localvit_tiny_patch16_224"]
# Options that take several values; each is a field of a setting.
_LISTS = ("mode", "precision", "compile", "fuse", "fused_attention", "save_memory", "batch_size", "image_size")

_DESCRIPTION = """Measure the throughput of models side by side on this machine. They take turns, and the first is the
baseline. If options have several values, every combination is measured. Writes the numbers of every round, a Markdown
table and an offline page of charts."""


def parser() -> Parser:
    """Options of the command."""
    parser = command_parser("bench", "[MODEL ...] [--OPTION VALUE ...]", _DESCRIPTION)
    parser.add_argument(
        "models",
        type=str,
        nargs="*",
        default=MODELS,
        help="model names known to timm, or files: checkpoints and exports",
    )
    parser.add_argument("--peers", action="store_true", help="add small timm models for comparison")
    parser.add_argument("--mode", type=Mode, nargs="+", default=["inference", "training"], help="what a step does")
    parser.add_argument("--precision", type=Precision, nargs="+", default=["fp32"], help="bf16 is for inference only")
    parser.add_argument("--compile", type=bool, nargs="+", default=[False], help="compile the whole model")
    parser.add_argument(
        "--fuse", type=bool, nargs="+", default=[False], help="fold the batch norms of locality, inference only"
    )
    parser.add_argument(
        "--fused-attention",
        type=bool,
        nargs="+",
        default=[True],
        help="fused attention, or attention step by step",
    )
    parser.add_argument(
        "--save-memory", type=bool, nargs="+", default=[False], help="recompute hidden maps of locality, training only"
    )
    parser.add_argument("--batch-size", type=PositiveInt, nargs="+", default=[16], help="images per step")
    parser.add_argument(
        "--image-size",
        type=str,
        nargs="+",
        default=None,
        help="in pixels, such as 224 or 192x256 (default: of the first file, or 224)",
    )
    parser.add_argument("--device", type=Device, default="auto", help="cpu, cuda, or auto for a GPU if available")
    parser.add_argument("--threads", type=PositiveInt | None, default=None, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--rounds", type=PositiveInt, default=ROUNDS, help="turns of each model")
    parser.add_argument("--memory", action="store_true", help="also measure peak memory, in one process per model")
    parser.add_argument("--output", type=str, default="runs/bench", help="folder for results and charts")
    return parser


def command(options: Any) -> Callable[[], int]:
    """Measure, print and write."""
    from localvit.benchmark import PEERS, Contestant, run, write_report
    from localvit.benchmark.report import problems
    from localvit.models.exported import is_exported, load_any

    names = dict.fromkeys([*options.models, *(PEERS if options.peers else ())])
    files = [name for name in names if Path(name).is_file()]
    if any(map(is_exported, files)):
        options.mode = [mode for mode in options.mode if mode == "inference"]  # exports cannot be trained
    inputs = {name: load_any(name)[1].input for name in files}
    if options.image_size is None:
        size = inputs[files[0]].image_size if files else (224, 224)
        options.image_size = ["x".join(map(str, size))]
    settings, left_out = _settings(options)

    def bench() -> int:
        contestants = [
            Contestant(partial(_loaded, name), Path(name).name, channels=inputs[name].channels)
            if name in inputs
            else Contestant(name)
            for name in names
        ]
        for reason in left_out:
            ERRORS.print(f"Left out: {reason}", markup=False, soft_wrap=True)
        found = run(contestants, settings, rounds=options.rounds, memory=options.memory)
        page = write_report(found, Path(options.output))
        for result in found.results:
            RESULTS.print(_table(found, result))
            for problem in problems(result):
                ERRORS.print(problem, markup=False, soft_wrap=True)
        RESULTS.print(f"Charts, tables and all numbers: {page.parent.resolve()}", soft_wrap=True)
        return int(any(one.error for result in found.results for one in result.measurements))

    return bench


def _loaded(path: str) -> "nn.Module":
    from localvit.models.exported import load_any

    return load_any(path)[0]


def _settings(options: Any) -> tuple[list[Setting], list[str]]:
    """Every valid combination, and why others are invalid; ``ValueError`` if none is valid."""
    sizes = [_image_size(size) for size in options.image_size]
    choices = [sizes if name == "image_size" else options[name] for name in _LISTS]
    settings: dict[Setting, None] = {}
    left_out: dict[str, None] = {}
    for values in itertools.product(*choices):
        given = dict(zip(_LISTS, values, strict=True))
        try:
            settings[Setting(**given, device=options.device, threads=options.threads)] = None
        except ValueError as error:
            left_out[str(error)] = None
    if not settings:
        raise ValueError(f"nothing is left to measure: {'; '.join(left_out)}")
    return list(settings), list(left_out)


def _image_size(text: str) -> tuple[int, int]:
    sides = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if sides is None:
        raise ValueError(f"--image-size is {text}; it must be pixels of a square, such as 224, or of both, as 192x256")
    return int(sides[1]), int(sides[2] or sides[1])


def _table(benchmark: "BenchmarkResult", result: "SettingResult") -> Table:
    """The measurements of a setting in 80 columns, without quartiles and empty columns."""
    from localvit.benchmark.report import HEADERS, UNKNOWN, table_rows

    rows = table_rows(benchmark, result)
    known = [column for column in range(len(HEADERS)) if any(row[column] != UNKNOWN for row in rows)]
    shown = [column for column in known if HEADERS[column] != "quartiles"]
    table = Table(title=result.setting.words(), box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column(HEADERS[0], overflow="fold")
    for column in shown[1:]:
        table.add_column(HEADERS[column], justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(row[column] for column in shown))
    return table
