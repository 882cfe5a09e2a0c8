"""ONNX files, run by ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from localvit.models.exported.formats import INPUT, METADATA, OUTPUT, brief, needed
from localvit.system.files import replacing

_OPSET = 20
_LARGEST = 2**28  # elements


def build(program: torch.export.ExportedProgram, description: str) -> Any:
    """The graph as ``onnx.ModelProto``, with the description."""
    optimizer = needed("onnxscript.optimizer", "onnx")
    # Its other rewrites take an added 1e-8 for zero, which changes what T2T-ViT computes. Runtimes optimize too.
    found = torch.onnx.export(
        program,
        dynamo=True,
        optimize=False,
        opset_version=_OPSET,
        input_names=[INPUT],
        output_names=[OUTPUT],
        verbose=False,
    )
    assert found is not None
    # Whatever is made of weights alone, however large: NNCF takes only plain tensors for weights.
    optimizer.fold_constants(found.model, input_size_limit=_LARGEST, output_size_limit=_LARGEST)
    optimizer.remove_unused_nodes(found.model)
    graph = found.model_proto
    for node in [*graph.graph.node, *(node for function in graph.functions for node in function.node)]:
        del node.metadata_props[:]  # where each operation comes from, with this machine's paths
    entry = graph.metadata_props.add()
    entry.key, entry.value = METADATA, description
    return graph


def write(graph: Any, path: Path) -> None:
    """Write a graph of :func:`build`."""
    with replacing(path) as file:
        file.write(graph.SerializeToString())


def read(path: Path) -> tuple[Any, str | None, list[Any]]:
    """The session of a file, the description in it, and the shape of its input.

    Raises:
        ValueError: if it is no ONNX file.
    """
    try:
        session = session_of(path.read_bytes())
        shape = list(session.get_inputs()[0].shape)
        return session, session.get_modelmeta().custom_metadata_map.get(METADATA), shape
    except OSError:
        raise
    except Exception as error:  # the runtime's own errors have no common class
        raise ValueError(f"{path} is damaged, or no ONNX file: {brief(error)}") from error


def session_of(content: bytes) -> Any:
    """ONNX Runtime's session of a graph in memory, which cannot name other files to be read."""
    runtime = needed("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(session: Any, images_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits (B, K)."""
    logits_BK: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: images_BCHW})[0]
    return logits_BK
