"""The configuration of a training run: model, data, recipe and seed, with nothing left to the environment."""

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
    """The network: a model of timm or of the paper, and the locality added to it.

    Attributes:
        name: a model that ``timm.create_model`` knows.
        arguments: arguments of its constructor; image size, channels and classes follow from input and data.
        pretrained: whether to start from timm's pretrained weights.
        checkpoint: file of weights to start from; head and position embedding may differ in size.
        locality: the locality feed-forward network. None keeps the model as it is.
        layers: the layers that get it: all, low, middle, high, or a list of such thirds and of indices.
        other_layers: the locality feed-forward network of all other layers. None keeps their MLPs.
        mode: replace the MLP (replace), or add locality to a trained one without changing its outputs (residual).
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
            raise ValueError("pretrained and checkpoint are both given; choose one source of weights")
        if self.other_layers is not None and self.locality is None:
            raise ValueError("other_layers is given and locality is not; give locality too")


@dataclass(frozen=True)
class TrainingConfig:
    """The training recipe, following DeiT; the defaults are the published one.

    Attributes:
        epochs: passes over the training images, including warm-up.
        cooldown_epochs: further passes at the minimum learning rate.
        batch_size: images per step and process.
        accumulate: number of batches whose gradients are accumulated for one optimizer step.
        optimizer: a name that ``timm.optim.create_optimizer_v2`` knows.
        optimizer_arguments: further arguments of the optimizer, such as betas.
        learning_rate: peak learning rate, after warm-up.
        learning_rate_images: images per optimizer step that learning_rate is meant for; it scales linearly with the
            actual number over all processes. None for no scaling.
        weight_decay: decay of weight matrices and convolutions; biases, norms, class token and position embedding have
            none.
        layer_decay: factor of the learning rate from each layer to the one below, for fine-tuning. None for no decay.
        warmup_epochs: epochs over which the learning rate rises from warmup_learning_rate.
        warmup_learning_rate: learning rate of the first step.
        min_learning_rate: learning rate at the end of the cosine.
        label_smoothing: probability moved from the true class to all classes.
        gradient_clip: maximum norm of the gradient. 0 disables clipping.
        ema_decay: decay of an exponential moving average of the weights, which is evaluated and saved too. 0 disables
            it.
        ema_warmup: whether the decay of the average rises to ema_decay, for short runs.
        freeze_batch_norm: whether batch norms keep the statistics of the checkpoint.
        checkpoint_minutes: most training time that an interruption within an epoch may cost.
        evaluate_every: number of epochs between evaluations on the held-out images, which must divide the total number
            of epochs; 0 to evaluate after the last epoch only.
        score_test: whether to score the test images once, after the last epoch; there are some if data.validation is
            above 0.
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
    evaluate_every: int = 1
    score_test: bool = True

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
                "it must be fewer, so that training reaches its peak learning rate"
            )
        require("evaluate_every", self.evaluate_every, at_least=0)
        if self.evaluate_every and self.total_epochs % self.evaluate_every:
            raise ValueError(
                f"evaluate_every is {self.evaluate_every} of {self.total_epochs} epochs; it must divide them, so that "
                "the last epoch is evaluated"
            )

    @property
    def total_epochs(self) -> int:
        """Passes over the training images, including the cool-down."""
        return self.epochs + self.cooldown_epochs


@dataclass(frozen=True)
class DistillationConfig:
    """Distillation from a teacher (DeiT, arXiv 2012.12877, section 4).

    Attributes:
        teacher: a model that ``timm.create_model`` knows.
        checkpoint: file of the teacher's weights. Defaults to timm's pretrained weights.
        kind: learn from the teacher's probabilities (soft) or from its top class (hard).
        weight: alpha, the weight of the teacher in the loss.
        temperature: tau, which softens both distributions.
    """

    teacher: str
    checkpoint: str | None = None
    kind: Literal["soft", "hard"] = "soft"
    weight: float = 0.5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight is {self.weight}; it must be between 0 and 1")
        require("temperature", self.temperature, above=0)


@dataclass(frozen=True)
class HardwareConfig:
    """The hardware of a run. Under torchrun or SLURM, those decide on the processes.

    Attributes:
        accelerator: cpu, cuda, mps, or auto for the best available.
        devices: number of devices, or auto: all GPUs, or one process on a CPU.
        precision: floating-point precision, in Lightning's terms.
        compile: whether to compile the model with ``torch.compile``.
        fused_attention: whether attention is a single PyTorch operation. Its backward pass is slow on CPUs: in
            bf16-mixed, false trains a small transformer about twice as fast there (``benchmarks/attention.py``).
        channels_last: whether images and convolution weights are stored channels-last.
        sync_batch_norm: whether GPUs share batch-norm statistics.
        workers: data-loading processes per training process. Defaults to as many as the cores allow, up to 8.
        threads: CPU threads per process. Defaults to all. It affects the last digits of sums.
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
    """Where metrics are logged in addition to ``metrics.csv``.

    Attributes:
        tensorboard: whether to write TensorBoard event files into the folder of the run.
        wandb_project: project of Weights & Biases (``pip install localvit[wandb]``). None disables it.
        every_steps: number of steps between logged training losses.
    """

    tensorboard: bool = True
    wandb_project: str | None = None
    every_steps: int = 50

    @property
    def enabled(self) -> bool:
        """Whether metrics are logged at all."""
        return self.tensorboard or self.wandb_project is not None


@dataclass(frozen=True)
class RunConfig:
    """A complete training run: on the same hardware, the same configuration gives the same weights.

    Attributes:
        model: the network.
        data: the images.
        input: how images are preprocessed.
        augmentation: the augmentation of training images.
        training: the recipe.
        distillation: the teacher. None to learn from labels only.
        hardware: the hardware.
        logging: where metrics are logged.
        seed: seed of initial weights, image order, augmentation and stochastic depth.
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
                "(augmentation.mixup 0 and augmentation.cutmix 0 disable them)"
            )

    def key(self) -> str:
        """A short hash of the whole configuration, which the name of a run folder ends with."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:10]

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and scalars, as in a recipe file."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain
