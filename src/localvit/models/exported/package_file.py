"""PyTorch's ahead-of-time packages: machine code for the processor that it was compiled on."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from localvit.models.exported.formats import METADATA, Batch, brief
from localvit.system.errors import LocalViTError

_BATCH = "localvit_batch"


def write(program: torch.export.ExportedProgram, description: str, path: Path, batch: Batch) -> None:
    """Compile a graph that takes ``batch`` images into a package.

    Raises:
        LocalViTError: if it cannot be compiled here.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new.pt2")
    try:
        with torch.no_grad():  # the compiler packs weights only without gradients
            torch._inductor.aoti_compile_and_package(
                program,
                package_path=str(temporary),
                inductor_configs={
                    "aot_inductor.metadata": {METADATA: description, _BATCH: str(batch)},
                    "cpp.dynamic_threads": True,  # as many as where it runs, not as here
                    "freezing": True,  # packs the weights, and leaves the memory layout of the tokens as it is
                },
            )
        temporary.replace(path)
    except Exception as error:  # a missing compiler, or a graph that it refuses
        raise LocalViTError(
            f"{path} cannot be compiled; that needs a C++ compiler such as g++: {type(error).__name__}: {error}"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> tuple[Any, str | None, int | None]:
    """The compiled graph of a package, the description in it, and its number of images, None for any.

    Raises:
        ValueError: if it is no package.
    """
    try:
        compiled = torch._inductor.aoti_load_package(str(path))
        metadata = dict(compiled.get_metadata())
        batch = metadata.get(_BATCH, "dynamic")
        return compiled, metadata.get(METADATA), None if batch == "dynamic" else int(batch)
    except Exception as error:  # errors of the loader have no common class
        raise ValueError(f"{path} is damaged, or no package of PyTorch: {brief(error)}") from error


def run(compiled: Any, images_BCHW: Tensor) -> Tensor:
    """Logits (B, K)."""
    logits_BK: Tensor = compiled(images_BCHW)
    return logits_BK
