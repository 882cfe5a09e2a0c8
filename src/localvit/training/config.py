"""What one training run is: model, data, recipe and seed, with nothing left to the environment."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from localvit.data.config import AugmentationConfig, DataConfig, InputConfig
from localvit.locality.config import Layers, LocalityConfig, Mode
from localvit.system.errors import require

Precision = Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true"]


@dataclass(frozen=True)
class ModelConfig:
    """The network: a model of timm or of the paper, and the locality put into it.

    Attributes:
        name: a model that ``timm.create_model`` knows.
        arguments: what it is created with; image size, channels and classes follow from input and data.
        pretrained: start from the weights that timm knows for it.
        checkpoint: start from the weights of this file; head and position embedding may be of another size.
        locality: the feed-forward network put into it; none for the model as it is.
        layers: which layers get it: all, low, middle, high, or a list of such thirds and of indices.
        other_layers: what the layers get that are not among those; none leaves them their own MLP.
        mode: in place of the MLP (replace), or added to a trained one without changing its outputs (residual).
    """

    name: str = "localvit_tiny_patch16_224"
    arguments: dict[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    checkpoint: str | None = None
    locality: LocalityConfig | None = None
    layers: Layers = "all"
    other_layers: LocalityConfig | None = None
    mode: Mode = "replace"

    def __post_init__(self) -> None:
        if self.pretrained and self.checkpoint is not None:
            raise ValueError("pretrained and checkpoint are both given; weights can come from one of them")
        if self.other_layers is not None and self.locality is None:
            raise ValueError("other_layers is given and locality is not; layers other than which?")


@dataclass(frozen=True)
class TrainingConfig:
    """The recipe, after DeiT; the defaults are the published one.

    Attributes:
        epochs: passes over the training images, warm-up included.
        cooldown_epochs: passes after those, at the smallest learning rate.
        batch_size: images a step and process.
        accumulate: steps whose gradients are summed before the optimizer takes one.
        optimizer: a name that ``timm.optim.create_optimizer_v2`` knows.
        optimizer_arguments: further arguments of it, such as betas.
        learning_rate: at its highest, after the warm-up.
        learning_rate_images: images of an optimizer step that learning_rate is meant for; it is scaled in proportion to
            those there are, over all processes. None to take it as it is.
        weight_decay: on weight matrices and convolutions; biases, norms, class token and position embedding have none.
        layer_decay: factor of the learning rate from each layer to the one below, for fine-tuning; none for none.
        warmup_epochs: epochs over which the learning rate rises from warmup_learning_rate.
        warmup_learning_rate: at the first step.
        min_learning_rate: at the end of the cosine.
        label_smoothing: probability taken from the true class and spread over all classes.
        gradient_clip: largest norm of the gradient of a step; 0 leaves it alone.
        ema_decay: of an exponential moving average of the weights, which is evaluated and kept beside them; 0 for none.
        ema_warmup: let the decay of the average rise to ema_decay, for runs of few steps.
        freeze_batch_norm: leave the statistics of batch norms as the checkpoint has them.
        checkpoint_minutes: how much an interruption may cost at most, beside the end of each epoch.
    """

    epochs: int = 300
    cooldown_epochs: int = 10
    batch_size: int = 128
    accumulate: int = 1
    optimizer: str = "adamw"
    optimizer_arguments: dict[str, Any] = field(default_factory=dict)
    learning_rate: float = 5e-4
    learning_rate_images: int | None = 512
    weight_decay: float = 0.05
    layer_decay: float | None = None
    warmup_epochs: int = 5
    warmup_learning_rate: float = 1e-6
    min_learning_rate: float = 1e-5
    label_smoothing: float = 0.1
    gradient_clip: float = 0.0
    ema_decay: float = 0.99996
    ema_warmup: bool = False
    freeze_batch_norm: bool = False
    checkpoint_minutes: float = 10.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "learning_rate", "checkpoint_minutes"):
            require(name, getattr(self, name), above=0)
        for name in ("weight_decay", "warmup_learning_rate", "min_learning_rate", "gradient_clip"):
            require(name, getattr(self, name), at_least=0)
        for name in ("warmup_epochs", "cooldown_epochs"):
            require(name, getattr(self, name), at_least=0)
        if self.learning_rate_images is not None:
            require("learning_rate_images", self.learning_rate_images, at_least=1)
        for name in ("label_smoothing", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay is {self.layer_decay}; it must be above 0 and at most 1")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs} of {self.epochs} epochs; "
                "it must be fewer, so that training reaches its learning rate"
            )

    @property
    def total_epochs(self) -> int:
        """Passes over the training images in all."""
        return self.epochs + self.cooldown_epochs


@dataclass(frozen=True)
class DistillationConfig:
    """Learning from a teacher's answers beside the labels (DeiT, arXiv 2012.12877, section 4).

    Attributes:
        teacher: a model that ``timm.create_model`` knows.
        checkpoint: the teacher's weights; those that timm knows for it by default.
        kind: from the teacher's probabilities (soft) or from its first choice (hard).
        weight: alpha, the share of the teacher in the loss.
        temperature: tau, which softens both distributions.
    """

    teacher: str
    checkpoint: str | None = None
    kind: Literal["soft", "hard"] = "soft"
    weight: float = 0.5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight is {self.weight}; it must lie in 0 to 1")
        require("temperature", self.temperature, above=0)


@dataclass(frozen=True)
class HardwareConfig:
    """What a run is computed on. Under torchrun or SLURM the processes are theirs.

    Attributes:
        accelerator: cpu, cuda, mps, or auto for the best there is.
        devices: of it, a number or auto: all GPUs, or one process on a CPU.
        precision: as Lightning names it.
        compile: compile the model with ``torch.compile``.
        fused_attention: attention as one operation of PyTorch. Its backward pass on CPUs is slow: in bf16-mixed, false
            trains a small transformer there about twice as fast (``benchmarks/attention.py``).
        channels_last: keep images and weights of convolutions channels-last.
        sync_batch_norm: share the statistics of batch norms between GPUs.
        workers: processes that read images, for each training process; as many as cores allow, up to 8, by default.
        threads: of the CPU, for one process; all by default. Sums change with it in the last digits.
    """

    accelerator: str = "auto"
    devices: int | Literal["auto"] = "auto"
    precision: Precision = "32-true"
    compile: bool = False
    fused_attention: bool = True
    channels_last: bool = False
    sync_batch_norm: bool = False
    workers: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None:
            require("workers", self.workers, at_least=0)
        for name in ("threads", "devices"):
            if isinstance(value := getattr(self, name), int):
                require(name, value, at_least=1)


@dataclass(frozen=True)
class LoggingConfig:
    """Where the metrics go beside ``metrics.csv``.

    Attributes:
        tensorboard: event files in the run's folder.
        wandb_project: a project of Weights & Biases (``pip install localvit[wandb]``); none for none.
        every_steps: how often the loss of a step is logged there.
    """

    tensorboard: bool = True
    wandb_project: str | None = None
    every_steps: int = 50


@dataclass(frozen=True)
class RunConfig:
    """One training run, complete: on the same hardware the same configuration gives the same weights.

    Attributes:
        model: the network.
        data: the images.
        input: what the network is shown of them.
        augmentation: what training does to them.
        training: the recipe.
        distillation: a teacher; none for labels alone.
        hardware: what it is computed on.
        logging: where its metrics go.
        seed: of the initial weights, the order of the images, their augmentation and stochastic depth.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    input: InputConfig = field(default_factory=InputConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    distillation: DistillationConfig | None = None
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.augmentation.mixes and self.training.batch_size % 2:
            raise ValueError(
                f"batch_size is {self.training.batch_size}; mixup and cutmix pair images, so it must be even "
                "(or switch them off with augmentation.mixup and augmentation.cutmix 0)"
            )

    def key(self) -> str:
        """Short hash of the whole configuration; a run folder carries it in its name."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:10]

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and scalars: the form of a recipe file."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain
