"""int8 by NNCF: 8 bits for weights and activations, with ranges chosen on real images."""

import contextlib
import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

from localvit.models.exported.formats import INPUT, METADATA, Batch, needed
from localvit.system.errors import LocalViTError


def quantized(graph: Any, calibration: Iterable[Tensor], description: str, batch: Batch) -> Any:
    """A graph in int8.

    Activations are asymmetric, because h-swish is; weights have a scale per channel. NNCF's mode for transformers
    smooths the activations of linear layers and leaves attention's softmax in full precision.

    Args:
        graph: ``onnx.ModelProto`` or ``openvino.Model``.
        calibration: batches of preprocessed images (B, C, H, W).
        description: of the model, kept in the new graph.
        batch: number of images that the graph takes.

    Raises:
        LocalViTError: if NNCF is missing, or there is no image.
    """
    nncf = needed("nncf", "quantize")
    images = [image_CHW.numpy() for batch_BCHW in calibration for image_CHW in batch_BCHW]
    if not images:
        raise LocalViTError("int8 needs images to choose its ranges on, and there are none")
    size = 1 if batch == "dynamic" else batch
    batches = [
        np.stack([images[place % len(images)] for place in range(start, start + size)])
        for start in range(0, len(images), size)
    ]
    is_onnx = hasattr(graph, "SerializeToString")
    dataset = nncf.Dataset(batches, (lambda image: {INPUT: image}) if is_onnx else None)
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        found = nncf.quantize(
            graph,
            dataset,
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(batches),
        )
    if not is_onnx:
        found.set_rt_info(description, [METADATA])
    return found
