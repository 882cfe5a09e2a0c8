"""Classifies images and folders of images, in their order, however many there are and whatever is wrong with some.

Shape suffixes: B images, C channels, H x W pixels, K classes, T the most probable of them.
"""

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from rich.console import Console
from rich.text import Text
from torch import Tensor, nn

from localvit.data.images import decode_image, image_endings, natural_key
from localvit.data.source import BrokenImageError
from localvit.data.transforms import evaluation_transform
from localvit.data.workers import default_workers
from localvit.models.weights.model_description import ModelDescription
from localvit.system.errors import LocalViTError, require
from localvit.system.progress import progress_bar

_MOST_IMAGES_WITHOUT_BAR = 50


class ClassProbability(NamedTuple):
    """A class and its probability."""

    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The prediction of a model for an image.

    Attributes:
        path: the image.
        classes: the most probable classes in descending order; empty if there is an error.
        error: why the image could not be classified.
    """

    path: Path
    classes: tuple[ClassProbability, ...] = ()
    error: str | None = None


class Predictions:
    """An iterator that computes predictions lazily, once, and knows their number in advance."""

    def __init__(self, count: int, rows: Iterator[Prediction]) -> None:
        self._count, self._rows = count, rows

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Prediction]:
        return self._rows


class Entry(NamedTuple):
    """A path to predict, or the reason why it cannot be predicted."""

    path: Path
    error: str | None = None


def predict(
    model: nn.Module,
    description: ModelDescription,
    paths: Iterable[Path],
    *,
    top: int | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    device: str = "auto",
) -> Predictions:
    """Classify images and folders of images; an unreadable image yields an error instead of a prediction.

    Threads decode the images, because decoding takes longest and Pillow releases the GIL. At most two batches of images
    are in memory.

    Args:
        model: images (B, C, H, W) to logits (B, K); moved to the device.
        description: its classes, and how images are preprocessed.
        paths: files with any name, and folders. A folder stands for all images below it, recognized by their extension,
            in natural order (2 before 10); hidden files and links to folders are skipped.
        top: number of classes per image (default: 5, or all if there are fewer).
        batch_size: images per step.
        workers: decoding threads (default: one per core).
        device: cpu, cuda, cuda:1, mps, or auto for the best available.

    Raises:
        ValueError: if the model has fewer classes than ``top``, or if the device does not exist.
        LocalViTError: during iteration, if the device runs out of memory.
    """
    num_classes = len(description.class_names)
    top = min(5, num_classes) if top is None else top
    require("top", top, at_least=1)
    require("batch_size", batch_size, at_least=1)
    if top > num_classes:
        raise ValueError(f"top is {top}, and the model has {num_classes} classes; it must be at most {num_classes}")
    entries = [entry for path in paths for entry in images_at(path)]
    place = find_device(device)
    model.to(place).eval()
    transform, channels = evaluation_transform(description.input), description.input.channels

    def load(entry: Entry) -> Tensor | str:
        return entry.error or _load(entry.path, transform, channels)

    def rows() -> Iterator[Prediction]:
        loaded = _in_order(load, entries, default_workers(1) if workers is None else workers, ahead=batch_size)
        while batch := list(islice(loaded, batch_size)):
            yield from _predict_batch(batch, model, description.class_names, top, place)

    return Predictions(len(entries), rows())


def images_at(path: Path) -> Iterator[Entry]:
    """The image at ``path``, or all images below it in natural order; what cannot be read has an error."""
    try:
        is_folder = path.is_dir()
    except OSError:
        is_folder = False  # reading it will report why
    if not is_folder:
        yield Entry(path)
        return
    errors: list[OSError] = []
    found = []
    endings = image_endings()
    for folder, subfolders, files in os.walk(path, onerror=errors.append):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        visible = (name for name in files if not name.startswith("."))
        found += [Path(folder, name) for name in visible if Path(name).suffix.lower() in endings]
    for image in sorted(found, key=lambda image: natural_key(str(image))):
        yield Entry(image)
    for error in errors:
        yield Entry(Path(error.filename), f"the folder cannot be read: {error.strerror}")
    if not found and not errors:
        yield Entry(path, "there is no image in this folder")


def find_device(name: str) -> torch.device:
    """A device by its name: cpu, cuda, cuda:1, mps, or auto for the best available.

    Raises:
        ValueError: if it does not exist here.
    """
    if name == "auto":
        best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return best or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device is {name!r}, which cannot be used here: {error}. It may be auto, or cpu") from error
    return device


def _load(path: Path, transform: Callable[[Image.Image], Tensor], channels: int) -> Tensor | str:
    """The preprocessed image (C, H, W), or the reason why there is none."""
    try:
        return transform(decode_image(path, str(path), channels=channels))
    except BrokenImageError as error:
        return error.reason
    except Exception as error:  # whatever happened, the other images must still be predicted
        return f"cannot be prepared for the model: {error!r}"


def _in_order(
    load: Callable[[Entry], Tensor | str], entries: Iterable[Entry], workers: int, *, ahead: int
) -> Iterator[tuple[Path, Tensor | str]]:
    """Each path with the result of ``load``, in order; at most ``ahead`` results wait to be consumed."""
    pending: deque[tuple[Path, Future[Tensor | str]]] = deque()
    pool = ThreadPoolExecutor(max(1, workers), "localvit-images")
    try:
        for entry in entries:
            pending.append((entry.path, pool.submit(load, entry)))
            if len(pending) > ahead:
                path, future = pending.popleft()
                yield path, future.result()
        for path, future in pending:
            yield path, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _predict_batch(
    batch: list[tuple[Path, Tensor | str]],
    model: nn.Module,
    class_names: tuple[str, ...],
    top: int,
    device: torch.device,
) -> Iterator[Prediction]:
    images = [image for _, image in batch if isinstance(image, Tensor)]
    most_probable = iter(_most_probable(torch.stack(images), model, top, device) if images else [])
    for path, image in batch:
        if isinstance(image, str):
            yield Prediction(path, error=image)
            continue
        classes = tuple(ClassProbability(class_names[index], probability) for index, probability in next(most_probable))
        if all(0 <= item.probability <= 1 for item in classes):
            yield Prediction(path, classes)
        else:
            yield Prediction(path, error="the model's answer is not finite (NaN); its weights are damaged or untrained")


@torch.inference_mode()
def _most_probable(
    images_BCHW: Tensor, model: nn.Module, top: int, device: torch.device
) -> list[list[tuple[int, float]]]:
    """Index and probability of the ``top`` classes of each image."""
    try:
        logits_BK = model(images_BCHW.to(device))
        probabilities_BT, indices_BT = logits_BK.float().softmax(dim=1).topk(top)
    except torch.OutOfMemoryError as error:
        raise LocalViTError(
            f"{len(images_BCHW)} images at a time need more memory than {device} has; make --batch_size smaller"
        ) from error
    pairs = zip(indices_BT.tolist(), probabilities_BT.tolist(), strict=True)
    return [list(zip(indices, probabilities, strict=True)) for indices, probabilities in pairs]


def print_predictions(
    predictions: Predictions, *, as_json: bool, out: Console | None = None, err: Console | None = None
) -> int:
    """Print each prediction as soon as it is available, and a summary at the end.

    Args:
        predictions: the result of :func:`predict`.
        as_json: print one line of JSON per image, including errors; otherwise text, with errors in red on ``err``.
        out: console for predictions (default: standard output).
        err: console for errors, progress and summary (default: standard error).

    Returns:
        The number of images that failed.
    """
    out, err = out or Console(), err or Console(stderr=True)
    start, failed, done = time.perf_counter(), 0, 0
    bar = None
    if len(predictions) > _MOST_IMAGES_WITHOUT_BAR and err.is_terminal:
        bar = progress_bar(err, "images", redirect_stdout=False, redirect_stderr=False)
    if bar is not None and out.is_terminal:
        out = err  # anything else that writes to the terminal breaks the bar
    with bar or nullcontext():
        task = None if bar is None else bar.add_task("", total=len(predictions))
        for prediction in predictions:
            done += 1
            failed += prediction.error is not None
            if as_json:
                out.out(json.dumps(_as_json(prediction)), highlight=False)
            elif prediction.error is None:
                out.print(_as_text(prediction), soft_wrap=True)
            else:
                err.print(Text(f"{_printable(prediction.path)}: {_printable(prediction.error)}", "red"), soft_wrap=True)
            if bar is not None and task is not None:
                bar.advance(task)
    rate = done / max(time.perf_counter() - start, 1e-9)
    err.print(f"{done:,} images, {failed:,} failed, {rate:,.1f} images/s", highlight=False, soft_wrap=True)
    return failed


def _as_json(prediction: Prediction) -> dict[str, object]:
    if prediction.error is not None:
        return {"path": str(prediction.path), "error": prediction.error}
    classes = [{"class": item.name, "probability": item.probability} for item in prediction.classes]
    return {"path": str(prediction.path), "predictions": classes}


def _as_text(prediction: Prediction) -> Text:
    rows = [f"\n{100 * item.probability:7.2f} %  {_printable(item.name)}" for item in prediction.classes]
    return Text.assemble((_printable(prediction.path), "bold"), *rows)


def _printable(text: object) -> str:
    """Escape control characters: names of files and classes may come from anywhere."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in str(text)
    )
