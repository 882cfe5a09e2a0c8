"""A model that takes part in a benchmark, and the steps it takes.

Shape suffixes: B images, C channels, H x W pixels, K classes.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from localvit.benchmark.measurement import Timed
from localvit.benchmark.setting import Setting
from localvit.data.config import InputConfig
from localvit.locality.feed_forward import LocalityFeedForward
from localvit.locality.hidden import HiddenLocality
from localvit.locality.kernels.forms import save_memory
from localvit.locality.kernels.fuse import fuse
from localvit.models.costs import count_macs_if_possible, count_parameters
from localvit.models.weights.model_description import require_known
from localvit.models.weights.model_file import create_model
from localvit.training.initial_model import attention

PEERS = (
    "deit_tiny_patch16_224",
    "deit_small_patch16_224",
    "swin_tiny_patch4_window7_224",
    "pvt_v2_b1",
    "convnext_atto",
    "mobilenetv3_large_100",
    "resnet18",
)

_CLASSES = 1000
_LEARNING_RATE = 1e-6  # too small to change the weights much, so every step costs the same


@dataclass(frozen=True)
class Contestant:
    """A model that takes part in a benchmark.

    Attributes:
        model: a model name known to timm, for random weights; or a function that builds a module for images
            (B, 3, H, W). To measure its memory, the function must be picklable.
        name: name in the results. Defaults to that of the model, with ``changes``.
        changes: fields of the setting that this contestant changes for itself, such as ``{"compile": True}``.
        channels: of its images, 3 for color.

    Raises:
        ValueError: for a name unknown to timm; suggests the nearest one.
    """

    model: str | Callable[[], nn.Module]
    name: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    channels: int = 3

    def __post_init__(self) -> None:
        if isinstance(self.model, str):
            require_known(self.model)
        if not self.name:
            model = self.model if isinstance(self.model, str) else getattr(self.model, "__name__", repr(self.model))
            changes = ", ".join(f"{key} {value}" for key, value in self.changes.items())
            object.__setattr__(self, "name", f"{model}, {changes}" if changes else model)

    def setting(self, shared: Setting) -> Setting:
        """Its own setting. Raises ``TypeError`` or ``ValueError`` for invalid changes."""
        return replace(shared, **self.changes)

    def build(self, setting: Setting) -> nn.Module:
        """Build the model as defined: in float32, on the CPU, neither fused nor compiled."""
        with attention(fused=setting.fused_attention):
            if isinstance(self.model, str):
                return create_model(self.model, InputConfig(setting.height_and_width), num_classes=_CLASSES)
            return self.model()


class Stepper:
    """A contestant ready to take steps.

    Args:
        contestant: the contestant.
        setting: the contestant's own setting.

    Attributes:
        parameters: number of parameters of the model as defined.
        macs: multiply-accumulates per image. None if they cannot be counted.
        step: takes one step of training or inference.
    """

    def __init__(self, contestant: Contestant, setting: Setting) -> None:
        self.setting, self.device = setting, setting.torch_device
        model = contestant.build(setting)
        self.parameters = count_parameters(model)
        self.macs = count_macs_if_possible(model, (contestant.channels, *setting.height_and_width))
        if setting.fuse and has_locality(model):
            model = fuse(model)
        if setting.save_memory:
            save_memory(model)
        dtype = torch.bfloat16 if setting.precision == "bf16" else torch.float32
        self.model = model.to(self.device, dtype)
        self.model.train(setting.mode == "training")
        shape = (setting.batch_size, contestant.channels, *setting.height_and_width)
        self.images_BCHW = torch.randn(shape, device=self.device, dtype=dtype)
        self.step = self._prepare_training() if setting.mode == "training" else self._classify
        if setting.compile:
            self.model.compile(dynamic=False)

    def _prepare_training(self) -> Callable[[], None]:
        num_classes = int(getattr(self.model, "num_classes", _CLASSES))
        self.labels_B = torch.randint(num_classes, (self.setting.batch_size,), device=self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=_LEARNING_RATE)
        return self._train

    def _train(self) -> None:
        with self._autocast():
            logits_BK = self.model(self.images_BCHW)
        nn.functional.cross_entropy(logits_BK.float(), self.labels_B).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _classify(self) -> Tensor:
        with torch.inference_mode(), self._autocast():
            logits_BK: Tensor = self.model(self.images_BCHW)
            return logits_BK

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self.setting.precision == "bf16-mixed":
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def timed(self) -> Timed:
        """The steps, for taking turns. The number of threads is set before each turn."""
        threads = self.setting.threads or torch.get_num_threads()
        wait = torch.cuda.synchronize if self.device.type == "cuda" else bool
        return Timed(self.step, self.setting.batch_size, wait, functools.partial(torch.set_num_threads, threads))


def has_locality(model: nn.Module) -> bool:
    """Whether fusing would change the model."""
    return any(isinstance(module, LocalityFeedForward | HiddenLocality) for module in model.modules())
