"""OpenVINO's pairs of files: the graph (.xml) and its weights (.bin)."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from localvit.models.exported.formats import METADATA, Precision, brief, needed
from localvit.system.files import working_folder

_HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16"}


def build(program: torch.export.ExportedProgram, description: str, shape: Sequence[int]) -> Any:
    """The graph as ``openvino.Model``, with the description.

    Args:
        program: the graph.
        description: of the model.
        shape: of the images (B, C, H, W), -1 for any number of them. The converter leaves it open.
    """
    openvino = needed("openvino", "openvino")
    graph = openvino.convert_model(program)
    graph.reshape(openvino.PartialShape(list(shape)))
    graph.set_rt_info(description, [METADATA])
    return graph


def write(graph: Any, path: Path) -> None:
    """Write a graph of :func:`build`: the weights first, so that a graph is never without them."""
    openvino = needed("openvino", "openvino")
    with working_folder(path.parent, path.name) as folder:
        new = folder / path.name
        openvino.save_model(graph, new, compress_to_fp16=False)
        for ending in (".bin", ".xml"):
            new.with_suffix(ending).replace(path.with_suffix(ending))


@cache
def _core() -> Any:
    """The one that compiles all graphs of this process, and that ends with it.

    Each core gives the thread that first compiles with it another stack for signals, and the memory of that stack is
    gone with the core. If there were several, one that ends could leave the thread with the stack of one that ended
    before: the next Ctrl-C would then end the process with a segmentation fault.
    """
    return needed("openvino", "openvino").Core()


def read(path: Path, precision: Precision) -> tuple[Any, str | None, list[Any]]:
    """The compiled graph of a file, the description in it, and the shape of its input.

    Raises:
        ValueError: if it is no graph of OpenVINO.
        FileNotFoundError: if the file with the weights is missing.
    """
    core = _core()
    if not path.with_suffix(".bin").is_file():
        raise FileNotFoundError(f"{path.with_suffix('.bin')} is missing, which holds the weights of {path}")
    try:
        graph = core.read_model(path)
        shape = [size.get_length() if size.is_static else None for size in graph.input(0).get_partial_shape()]
        described = graph.has_rt_info([METADATA])
        return compile_graph(graph, precision), graph.get_rt_info([METADATA]).astype(str) if described else None, shape
    except Exception as error:  # OpenVINO raises RuntimeError and others for damaged files
        raise ValueError(f"{path} is damaged, or no graph of OpenVINO: {brief(error)}") from error


def compile_graph(graph: Any, precision: Precision = "fp32") -> Any:
    """A graph as ``openvino.CompiledModel``, with as many threads as PyTorch has."""
    hints = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    return _core().compile_model(graph, "CPU", hints)


def run(compiled: Any, images_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits (B, K)."""
    logits_BK: NDArray[np.float32] = compiled(images_BCHW)[0]
    return logits_BK
