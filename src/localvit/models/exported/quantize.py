"""int8 by NNCF: 8 bits for weights and activations, with ranges chosen on real images.

Shape suffixes: B images, C channels, H x W pixels, K classes.
"""

import contextlib
import io
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from localvit.models.exported import onnx_file, openvino_file
from localvit.models.exported.formats import INPUT, METADATA, Batch, needed
from localvit.system.errors import LocalViTError
from localvit.system.threads import in_own_thread

_T = TypeVar("_T")
Images = NDArray[np.float32]  # (B, C, H, W)
_RANKED = 100  # images that rank the layers by what they cost


@dataclass(frozen=True)
class ErrorGoal:
    """How far int8 may move the logits. The layers that move them most stay in full precision until it is reached.

    Accuracy would be no goal: a model knows the images it was trained on, and still knows them when its logits have
    moved far enough to lose others.

    Attributes:
        most_error: root mean square of the differences, relative to the standard deviation of the logits.
        watch: called with the number of images whenever some were classified.
    """

    most_error: float
    watch: Callable[[int], object] = lambda images: None


def quantized(
    graph: Any, calibration: Iterable[Tensor], description: str, batch: Batch, goal: ErrorGoal | None = None
) -> Any:
    """A graph in int8.

    Activations are asymmetric, because h-swish is; weights have a scale per channel. NNCF's mode for transformers
    leaves attention's softmax in full precision. Activations of linear layers are smoothed if that is more exact.

    Args:
        graph: ``onnx.ModelProto`` or ``openvino.Model``.
        calibration: batches of preprocessed images (B, C, H, W).
        description: of the model, kept in the new graph.
        batch: number of images that the graph takes.
        goal: leaves further layers in full precision. That classifies the images once for each layer tried.

    Raises:
        LocalViTError: if NNCF is missing, or there is no image.
    """
    nncf = needed("nncf", "quantize")
    size = 1 if batch == "dynamic" else batch
    batches = _filled(calibration, size)
    if not batches:
        raise LocalViTError("int8 needs images to choose its ranges on, and there are none")
    work = partial(_quantize, nncf, graph, batches)
    if goal is not None:
        work = partial(_quantize_within, nncf, graph, batches, goal)
    nncf.set_log_level(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        found = in_own_thread(work)  # NNCF's models of OpenVINO would change this one
    if not _is_onnx(graph):
        found.set_rt_info(description, [METADATA])
    return found


def _quantize(nncf: Any, graph: Any, batches: Sequence[Images], check: Callable[[], None]) -> Any:
    """With activations smoothed or as they are, whichever stays closer to full precision.

    Smoothing is NNCF's default for transformers, but costs a lot in some graphs, such as OpenVINO's of Swin.
    """
    smoothings = nncf.AdvancedSmoothQuantParameters(), _no_smoothing(nncf)
    candidates = [
        nncf.quantize(
            graph,
            _calibration(nncf, graph, batches, check),
            advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alphas=smoothing),
            **_options(nncf, batches),
        )
        for smoothing in smoothings
    ]
    expected = np.concatenate(_logits(graph, _each(batches, check)))
    errors = [np.square(np.concatenate(_logits(one, _each(batches, check))) - expected).mean() for one in candidates]
    return candidates[int(np.argmin(errors))]


def _logits(graph: Any, batches: Iterable[Images]) -> list[NDArray[np.float32]]:
    """What a graph answers to each batch (B, K)."""
    run = _runner(graph if _is_onnx(graph) else openvino_file.compile_graph(graph))
    return [run(images_BCHW) for images_BCHW in batches]


def _quantize_within(
    nncf: Any,
    graph: Any,
    batches: Sequence[Images],
    goal: ErrorGoal,
    check: Callable[[], None],
) -> Any:
    expected = _logits(graph, _each(batches, check))
    deviation = float(np.concatenate(expected).std())
    return nncf.quantize_with_accuracy_control(
        graph,
        _calibration(nncf, graph, batches, check),
        nncf.Dataset(list(zip(batches, expected, strict=True))),
        lambda model, pairs: _closeness(_runner(model), _each(pairs, check), deviation, goal.watch),
        max_drop=goal.most_error,
        drop_type=nncf.DropType.ABSOLUTE,
        # A layer that is left in full precision gets its first weights back, which smoothing has changed.
        advanced_quantization_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alphas=_no_smoothing(nncf)),
        advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(ranking_subset_size=_RANKED),
        **_options(nncf, batches),
    )


def _no_smoothing(nncf: Any) -> Any:
    return nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)


def _options(nncf: Any, batches: Sequence[Images]) -> dict[str, Any]:
    return {
        "preset": nncf.QuantizationPreset.MIXED,
        "model_type": nncf.ModelType.TRANSFORMER,
        "subset_size": len(batches),
    }


def _calibration(nncf: Any, graph: Any, batches: Sequence[Images], check: Callable[[], None]) -> Any:
    """Batches as the graph takes them, with ``check`` before each."""

    def given(images_BCHW: Images) -> Any:
        check()
        return {INPUT: images_BCHW} if _is_onnx(graph) else images_BCHW

    return nncf.Dataset(batches, given)


def _each(batches: Iterable[_T], check: Callable[[], None]) -> Iterator[_T]:
    """The batches, with ``check`` before each."""
    for batch in batches:
        check()
        yield batch


def _is_onnx(graph: Any) -> bool:
    return hasattr(graph, "SerializeToString")


def _filled(batches: Iterable[Tensor], size: int) -> list[Images]:
    """The images in batches of ``size``; the last is filled up with the first images."""
    images = [image_CHW.numpy() for batch_BCHW in batches for image_CHW in batch_BCHW]
    return [
        np.stack([images[place % len(images)] for place in range(start, start + size)])
        for start in range(0, len(images), size)
    ]


def _runner(model: Any) -> Callable[[Images], NDArray[np.float32]]:
    """Images (B, C, H, W) to logits (B, K), for what NNCF hands over: an ONNX graph, or a compiled one of OpenVINO."""
    if _is_onnx(model):
        return partial(onnx_file.run, onnx_file.session_of(model.SerializeToString()))
    return partial(openvino_file.run, model)


def _closeness(
    run: Callable[[Images], NDArray[np.float32]],
    pairs: Iterable[tuple[Images, NDArray[np.float32]]],
    deviation: float,
    watch: Callable[[int], object],
) -> tuple[float, list[float]]:
    """One less the error of a graph, because more is better to NNCF; and of each batch, which ranks the layers."""
    squares = []
    for images_BCHW, expected_BK in pairs:
        squares.append(float(np.square(run(images_BCHW) - expected_BK).mean()))
        watch(len(images_BCHW))
    return 1 - math.sqrt(float(np.mean(squares))) / deviation, [-square for square in squares]
