"""How a model runs while it is measured."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from localvit.system.errors import LocalViTError, require

if TYPE_CHECKING:
    import torch

Mode = Literal["inference", "training"]
Precision = Literal["fp32", "bf16", "bf16-mixed"]
Device = Literal["auto", "cpu", "cuda"]
ROUNDS = 7


@dataclass(frozen=True)
class Setting:
    """How a model runs while it is measured.

    Attributes:
        mode: inference (a forward pass in inference mode) or training (forward, cross entropy, backward, AdamW step).
        precision: fp32; bf16 for weights and images in bfloat16, inference only; bf16-mixed for autocast to bfloat16.
        compile: whether to compile the whole model, for its one shape.
        fuse: whether to run models with locality through :func:`localvit.fuse`, inference only.
        batch_size: images per step.
        image_size: height and width in pixels, or one number for a square.
        fused_attention: whether timm models compute attention in one operation, or step by step.
        save_memory: whether to run models with locality through :func:`localvit.save_memory`, training only.
        device: cpu, cuda, or auto for a GPU if available.
        threads: CPU threads. Defaults to PyTorch's choice.

    Raises:
        ValueError: for a value outside the allowed ones, and for combinations that make no sense.
    """

    mode: Mode = "inference"
    precision: Precision = "fp32"
    compile: bool = False
    fuse: bool = False
    batch_size: int = 16
    image_size: tuple[int, int] | int = 224
    fused_attention: bool = True
    save_memory: bool = False
    device: Device = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("mode", Mode), ("precision", Precision), ("device", Device)):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(get_args(allowed))}")
        object.__setattr__(self, "image_size", _height_and_width(self.image_size))
        require("batch_size", self.batch_size, at_least=1)
        if self.threads is not None:
            require("threads", self.threads, at_least=1)
        if self.mode == "training" and self.precision == "bf16":
            raise ValueError(
                "precision is bf16 in training, where weights in bfloat16 would lose small updates; use bf16-mixed or "
                "fp32"
            )
        if self.mode == "training" and self.fuse:
            raise ValueError(
                "fuse is True in training; batch norms can be folded for inference only, so leave fuse out"
            )
        if self.mode == "inference" and self.save_memory:
            raise ValueError("save_memory is True in inference; it changes what training stores, so leave it out")

    @property
    def height_and_width(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        assert isinstance(self.image_size, tuple)
        return self.image_size

    @property
    def torch_device(self) -> "torch.device":
        """The device. Raises ``LocalViTError`` if the setting requires a GPU and there is none."""
        import torch  # takes seconds, and the command line needs the settings sooner

        gpu = torch.cuda.is_available()
        if self.device == "cuda" and not gpu:
            raise LocalViTError("device is cuda, but PyTorch finds no GPU; use cpu or auto")
        return torch.device("cuda" if gpu and self.device != "cpu" else "cpu")

    def on_its_device(self) -> "Setting":
        """The same setting with auto resolved. Raises the errors of :attr:`torch_device`."""
        return replace(self, device="cuda" if self.torch_device.type == "cuda" else "cpu")

    @contextlib.contextmanager
    def its_threads(self) -> Iterator[None]:
        """Use the setting's number of CPU threads inside the block."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    @property
    def arithmetic(self) -> str:
        """All that the machine's rate of matrix products depends on: device, number format and threads."""
        device = self.on_its_device().device if self.device == "auto" else self.device
        number = "fp32" if self.precision == "fp32" else "bf16"
        return ", ".join(part for part in (device, number, self._threads_in_words()) if part)

    def _threads_in_words(self) -> str:
        return "" if self.threads is None else f"{self.threads} thread{'s' if self.threads > 1 else ''}"

    def words(self) -> str:
        """The setting as one line of text."""
        height, width = self.height_and_width
        parts = (
            f"{self.mode}, {self.precision}",
            "compiled" if self.compile else "eager",
            "fused model" if self.fuse else "",
            "" if self.fused_attention else "attention step by step",
            "saving memory" if self.save_memory else "",
            f"batch {self.batch_size}",
            f"{height} x {width}",
            "" if self.device == "auto" else self.device,
            self._threads_in_words(),
        )
        return ", ".join(part for part in parts if part)


def _height_and_width(size: tuple[int, int] | list[int] | int) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ValueError(f"image_size is {size!r}; it must be height and width in pixels, or one number for a square")
    return (sides[0], sides[1])
