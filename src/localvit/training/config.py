"""What one training run is: model, data, recipe and seed, with nothing left to the environment."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import timm
from torch import nn

from localvit.data import DataConfig
from localvit.locality import LocalityConfig
from localvit.localize import Layers, localize


@dataclass(frozen=True)
class BodyConfig:
    """The transformer that an experiment starts from, before any locality.

    Attributes:
        name: a model that ``timm.create_model`` knows.
        arguments: what it is created with; image size, channels and classes follow from the data.
    """

    name: str = "deit_tiny_patch16_224"
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingConfig:
    """The recipe: AdamW, cosine decay with warm-up, after DeiT.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step.
        optimizer: a name that ``timm.optim.create_optimizer_v2`` knows.
        learning_rate: at its highest, after the warm-up.
        weight_decay: on weight matrices and convolutions; biases, norms, class token and position embedding have none.
        warmup_epochs: epochs over which the learning rate rises from warmup_learning_rate.
        warmup_learning_rate: at the first step.
        min_learning_rate: at the last step.
        label_smoothing: probability taken from the true class and spread over all classes.
        gradient_clip: largest norm of the gradient of a step; 0 leaves it alone.
        checkpoint_every_epochs: how many epochs an interruption may cost.
        threads: of the CPU, for one run. Sums change with it in the last digits, so it is part of the recipe.
        accelerator: where Lightning trains: cpu, cuda, mps, or auto for the best there is.
        precision: as Lightning names it, such as 32-true or bf16-mixed.
    """

    epochs: int = 300
    batch_size: int = 128
    optimizer: str = "adamw"
    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    warmup_epochs: int = 5
    warmup_learning_rate: float = 1e-6
    min_learning_rate: float = 1e-5
    label_smoothing: float = 0.1
    gradient_clip: float = 0.0
    checkpoint_every_epochs: int = 1
    threads: int = 1
    accelerator: str = "auto"
    precision: str = "32-true"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "checkpoint_every_epochs", "threads", "learning_rate"):
            _require(name, getattr(self, name), above=0)
        for name in ("weight_decay", "warmup_learning_rate", "min_learning_rate", "gradient_clip", "warmup_epochs"):
            _require(name, getattr(self, name), at_least=0)
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it must be at least 0 and below 1")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs} of {self.epochs} epochs; "
                "it must be fewer, so that training reaches its learning rate"
            )


def _require(name: str, value: float, *, above: float | None = None, at_least: float | None = None) -> None:
    if above is not None and not value > above:
        raise ValueError(f"{name} is {value}; it must be more than {above}")
    if at_least is not None and not value >= at_least:
        raise ValueError(f"{name} is {value}; it must be at least {at_least}")


@dataclass(frozen=True)
class RunConfig:
    """One training run, complete: the same configuration gives the same weights.

    Attributes:
        body: the transformer.
        locality: the feed-forward network put into it; none for the baseline.
        layers: which layers get it.
        data: the images.
        training: the recipe.
        seed: of the initial weights, the order of the images and their augmentation.
    """

    body: BodyConfig
    locality: LocalityConfig | None
    layers: Layers
    data: DataConfig
    training: TrainingConfig
    seed: int

    def key(self) -> str:
        """Short hash of all that decides the result; a run folder carries it in its name."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:10]

    def to_json(self) -> str:
        """The whole configuration, readable."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)

    def build_model(self, *, input_size: tuple[int, int, int], num_classes: int) -> nn.Module:
        """A fresh model for images (channels, height, width); the weights it shares with the baseline are equal.

        They are, because the baseline is built first and drawn from the same seed, then localized.
        """
        channels, *image_size = input_size
        model: nn.Module = timm.create_model(
            self.body.name,
            num_classes=num_classes,
            in_chans=channels,
            img_size=tuple(image_size),
            **self.body.arguments,
        )
        return model if self.locality is None else localize(model, self.locality, layers=self.layers)
