"""``localvit export``."""

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse.typing import NonNegativeFloat, PositiveInt
from rich import box
from rich.table import Table

from localvit.commands.parser import Parser, command_parser
from localvit.data.config import DataConfig
from localvit.models.exported.formats import ENDINGS, Batch, Format
from localvit.system.terminal import ERRORS, RESULTS

if TYPE_CHECKING:
    from torch import nn

    from localvit.evaluation.agreement import Agreement
    from localvit.evaluation.shown_images import ShownImages
    from localvit.models.weights.model_description import ModelDescription

_DESCRIPTION = """Export a model for another runtime: ONNX, OpenVINO, or PyTorch's ahead-of-time compiler (pt2). The
file contains classes and preprocessing, so that `localvit predict`, `eval` and `bench` take it. Every export is
compared with the original on images, and a file that disagrees is not kept. These are the images of --images, those
held out of --data, or those held out of the run beside the checkpoint. Without any, noise is used, and the table says
so."""
_CALIBRATION = 300
_ROUNDS, _SECONDS_A_TURN = 7, 0.1
_BATCH = 50


def parser() -> Parser:
    """Options of the command."""
    parser = command_parser(
        "export", "FILE --to FORMAT ... [--int8] [--images PATH] [--data.root FOLDER]", _DESCRIPTION
    )
    parser.add_argument(
        "file", type=str, help="weights of a run, such as runs/photos/best.safetensors, or hf-hub:USER/NAME"
    )
    parser.add_argument("--to", type=Format, nargs="+", required=True, help="onnx, openvino, pt2, or several of them")
    parser.add_argument("--int8", action="store_true", help="round weights and activations to 8 bits")
    parser.add_argument("--max-drop", type=NonNegativeFloat, default=0.5, help="points of accuracy that int8 may cost")
    parser.add_argument("--batch", type=Batch, default="dynamic", help="images at a time, or dynamic for any number")
    parser.add_argument(
        "--output",
        type=str | None,
        default=None,
        help="folder of the files (default: the file's own; here for a model on the hub)",
    )
    parser.add_argument("--model", type=str | None, default=None, help="model name, for files that do not contain it")
    parser.add_argument("--images", type=str | None, default=None, help="an image or a folder to compare on")
    parser.add_argument("--count", type=PositiveInt, default=1000, help="most images to compare on")
    parser.add_fields(DataConfig, "data")
    return parser


def command(options: Any) -> Callable[[], int]:
    """Export, compare and print."""
    from localvit.evaluation.checked_export import checked_export
    from localvit.models.weights.hub_files import HUB, name_of, weights_of
    from localvit.models.weights.model_file import load_model
    from localvit.system.errors import LocalViTError
    from localvit.system.files import working_folder

    def export() -> int:
        model, description = load_model(options.file, name=options.model)
        checkpoint = weights_of(options.file)
        compared, calibration = _images(options, checkpoint, description)
        if options.int8 and calibration is None:
            raise LocalViTError(
                "int8 needs real images to choose its ranges on; give --images FOLDER or --data.root FOLDER"
            )
        is_here = not options.file.startswith(HUB)
        folder = Path(options.output or (checkpoint.parent if is_here else "."))
        stem = f"{checkpoint.stem if is_here else name_of(options.file)}{'_int8' if options.int8 else ''}"
        rows: list[tuple[Path, Agreement]] = []
        modules = {checkpoint.name: model}
        for kind in dict.fromkeys(options.to):
            name = f"{stem}{ENDINGS[kind]}"
            with working_folder(folder, name) as unchecked:
                new = unchecked / name
                found, exported = checked_export(
                    model,
                    description,
                    new,
                    compared,
                    calibration if options.int8 else None,
                    batch=options.batch,
                    most_drop=options.max_drop,
                )
                for file in sorted(unchecked.iterdir()):  # OpenVINO's weights before its graph
                    file.replace(folder / file.name)
            rows.append((folder / new.name, found))
            modules[new.name] = exported
        noise = options.images is None and calibration is None
        with ERRORS.status("Measuring latency"):
            latencies = _latencies(modules, description)
        RESULTS.print(_table(rows, checkpoint, latencies, noise))
        RESULTS.print(f"localvit predict --checkpoint {rows[-1][0]} IMAGE ...", soft_wrap=True, highlight=False)
        return 0

    return export


def _images(
    options: Any, checkpoint: Path, description: "ModelDescription"
) -> "tuple[ShownImages, ShownImages | None]":
    """The images to compare on, and those to choose the ranges of int8 on: training images, where there are any."""
    from localvit.data.source import DataError
    from localvit.data.sources import open_parts, open_val
    from localvit.evaluation.model_card import run_of
    from localvit.evaluation.noise import NoiseImages
    from localvit.evaluation.shown_images import ShownImages, UnlabeledImages

    shown, names = description.input, description.class_names

    def of(source: Any, data: DataConfig, count: int) -> ShownImages:
        return ShownImages(source, data, shown, names, count=count, batch_size=_BATCH)

    if options.images is not None:
        source = UnlabeledImages(Path(options.images), channels=shown.channels)
        return of(source, options.data, options.count), of(source, options.data, _CALIBRATION)
    if options.data != DataConfig():
        data = options.data
    elif (run := run_of(checkpoint)) is not None:
        data = run.data
    else:
        return of(NoiseImages(shown), DataConfig(), _BATCH), None
    try:
        if not options.int8:
            val = open_val(data, channels=shown.channels)
            return of(val, data, options.count), of(val, data, _CALIBRATION)
        parts = open_parts(data, channels=shown.channels)
        return of(parts.test or parts.val, data, options.count), of(parts.train, data, _CALIBRATION)
    except DataError as error:
        if options.data != DataConfig():
            raise
        message = f"The images of the run are not at hand, so the comparison is on noise: {error}"
        ERRORS.print(message, markup=False, soft_wrap=True)
        return of(NoiseImages(shown), DataConfig(), _BATCH), None


def _latencies(modules: "dict[str, nn.Module]", description: "ModelDescription") -> dict[str, float]:
    """Milliseconds for one image, the median of turns."""
    import torch

    from localvit.benchmark.measurement import Timed, take_turns

    image_1CHW = torch.rand(1, description.input.channels, *description.input.image_size)
    with torch.inference_mode():
        turns = take_turns(
            {name: Timed(partial(module, image_1CHW), 1) for name, module in modules.items()},
            _ROUNDS,
            seconds_a_turn=_SECONDS_A_TURN,
        )
    return {name: 1000 / statistics.median(rates) for name, rates in turns.items() if not isinstance(rates, Exception)}


def _table(rows: "list[tuple[Path, Agreement]]", checkpoint: Path, latencies: dict[str, float], noise: bool) -> Table:
    first = rows[0][1]
    title = f"Compared with the original on {first.images:,} images{' of noise' if noise else ''}"
    table = Table(title=title, box=box.SIMPLE_HEAD)
    table.add_column("file", overflow="fold")
    for header in ("MB", "ms", "largest difference", "same class", "accuracy"):
        table.add_column(header, justify="right", no_wrap=True)
    original = "" if first.accuracy is None else f"{first.accuracy:.2f} %"
    table.add_row(checkpoint.name, _megabytes(checkpoint), f"{latencies[checkpoint.name]:.1f}", "", "", original)
    for path, found in rows:
        table.add_row(
            path.name,
            _megabytes(path, *([path.with_suffix(".bin")] if path.suffix == ".xml" else [])),
            f"{latencies[path.name]:.1f}" if path.name in latencies else "",
            f"{found.largest_difference:.1e}",
            f"{found.same_class:.2f} %",
            "" if found.exported_accuracy is None else f"{found.exported_accuracy:.2f} %",
        )
    return table


def _megabytes(*files: Path) -> str:
    return f"{sum(file.stat().st_size for file in files) / 1e6:.1f}"
