"""Distillation: learning from a teacher in addition to the labels."""

from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from localvit.data.config import InputConfig
from localvit.models.weights.checkpoints import load_checkpoint
from localvit.models.weights.model_file import read_description
from localvit.training.config import DistillationConfig


class Teacher:
    """A trained model that a student learns from (DeiT, arXiv 2012.12877, equations 2 and 3).

    It is not a module, so that its weights are neither trained nor saved in the student's checkpoints.

    Args:
        config: the teacher, and the kind of distillation.
        num_classes: number of classes K of the student.
        shown: preprocessing of the student's images.

    Raises:
        ValueError: for a name that timm does not know, or weights that do not fit.
    """

    def __init__(self, config: DistillationConfig, *, num_classes: int, shown: InputConfig) -> None:
        if not timm.is_model(config.teacher):
            raise ValueError(f"distillation.teacher is {config.teacher!r}; timm knows no such model")
        self.config = config
        self.model: nn.Module = timm.create_model(
            config.teacher, pretrained=config.checkpoint is None, num_classes=num_classes, in_chans=shown.channels
        )
        if config.checkpoint is not None:
            load_checkpoint(self.model, config.checkpoint)
        self.model.eval().requires_grad_(False)
        described = None if config.checkpoint is None else read_description(config.checkpoint)
        own: dict[str, Any] = self.model.pretrained_cfg  # type: ignore[assignment]  # timm's models have it
        mean, std = (own["mean"], own["std"]) if described is None else (described.input.mean, described.input.std)
        student_mean, student_std = _per_channel(shown.mean, shown), _per_channel(shown.std, shown)
        self._scale_C11 = student_std / _per_channel(std, shown)
        self._shift_C11 = (student_mean - _per_channel(mean, shown)) / _per_channel(std, shown)

    def mix(self, loss: Tensor, logits_BK: Tensor, images_BCHW: Tensor) -> Tensor:
        """The weighted sum of the student's ``loss`` on labels and its distance from the teacher."""
        weight = self.config.weight
        return (1 - weight) * loss + weight * self.distance(logits_BK, self.answers(images_BCHW))

    @torch.no_grad()
    def answers(self, images_BCHW: Tensor) -> Tensor:
        """The teacher's logits (B, K) for images normalized for the student."""
        if self._scale_C11.device != images_BCHW.device or self._scale_C11.dtype != images_BCHW.dtype:
            self.model.to(images_BCHW.device, images_BCHW.dtype)
            self._scale_C11, self._shift_C11 = self._scale_C11.to(images_BCHW), self._shift_C11.to(images_BCHW)
        answers_BK: Tensor = self.model(images_BCHW * self._scale_C11 + self._shift_C11)
        return answers_BK

    def distance(self, logits_BK: Tensor, answers_BK: Tensor) -> Tensor:
        """The distance of the student's logits from the teacher's."""
        if self.config.kind == "hard":
            return F.cross_entropy(logits_BK, answers_BK.argmax(dim=-1))
        temperature = self.config.temperature
        divergence = F.kl_div(
            F.log_softmax(logits_BK / temperature, dim=-1),
            F.log_softmax(answers_BK / temperature, dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        return temperature**2 * divergence


def _per_channel(values: tuple[float, ...], shown: InputConfig) -> Tensor:
    """One value per channel (C, 1, 1); gray gets the mean of the colors, as its first convolution is their sum."""
    if len(values) != shown.channels:
        values = (sum(values) / len(values),)
    return torch.tensor(values).view(-1, 1, 1)
