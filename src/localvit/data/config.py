"""The images of a run: where they come from, how a model sees them, and how training augments them."""

from dataclasses import dataclass
from typing import Literal, get_args

from localvit.system.errors import require

SourceKind = Literal["folder", "parquet", "webdataset", "huggingface", "torchvision", "digits"]
CategoryLevel = Literal["full", "super"]


@dataclass(frozen=True)
class DataConfig:
    """Labeled images: training images and held-out images.

    Attributes:
        source: folder (root/train/<class>/*.jpg), parquet (root/train*.parquet with image bytes and labels), webdataset
            (root/train*.tar), huggingface (a dataset on the hub, by name), torchvision (one of its datasets, by name),
            or digits (1,797 scans of 8 x 8 pixels that ship with scikit-learn).
        root: folder of the images, shards or files; for torchvision, where the dataset is or is downloaded to.
        name: name of the dataset, for huggingface (such as uoft-cs/cifar10) and torchvision (cifar10, cifar100,
            inaturalist_2018, inaturalist_2019).
        train_split: name of the training split: a folder, the start of file names, or a split on the hub.
        val_split: name of the held-out split.
        held_out: share of every class to hold out of the training split if there is no other: its last images, in the
            order of the source. 0 if the source has both splits.
        validation: share of every class to split from the training images, like held_out, for the validation after each
            epoch. The held-out images are then the test images. 0 validates on the held-out images.
        classes: names of the classes to use, numbered in the order of the source. None uses all.
        train_images: number of training images to use, from the first; None uses all. They are a fair sample only if
            the source is shuffled.
        val_images: number of held-out images to use, from the first; None uses all.
        image_key: column or file extensions of the images, for parquet, webdataset (jpg;jpeg;png;webp) and huggingface.
        label_key: column, extension or field of the labels, for the same sources.
        category: what a class of iNaturalist is: a species (full) or a super-category (super).
        download: whether a torchvision dataset may be downloaded.
        memory_gib: memory in GiB that the decoded images of each part may take. Images that fit and have the same size
            are decoded once per run, and small ones are augmented in batches; others are decoded in every epoch. 0
            decodes all in every epoch.
        on_broken: whether an unreadable image stops the run, or is skipped and listed in the run folder.
        cache: folder for the indexes of image folders and for converted shards. Defaults to the user's cache.
    """

    source: SourceKind = "folder"
    root: str | None = None
    name: str | None = None
    train_split: str = "train"
    val_split: str = "val"
    held_out: float = 0.0
    validation: float = 0.0
    classes: tuple[str, ...] | None = None
    train_images: int | None = None
    val_images: int | None = None
    image_key: str | None = None
    label_key: str | None = None
    category: CategoryLevel = "full"
    download: bool = False
    memory_gib: float = 1.0
    on_broken: Literal["stop", "skip"] = "stop"
    cache: str | None = None

    def __post_init__(self) -> None:
        if self.source not in get_args(SourceKind):
            raise ValueError(f"source is {self.source!r}; it must be one of {', '.join(get_args(SourceKind))}")
        for name in ("held_out", "validation"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        require("memory_gib", self.memory_gib, at_least=0)
        if self.classes is not None and len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes is {self.classes}; a class is named twice")
        for name in ("train_images", "val_images"):
            if (count := getattr(self, name)) is not None:
                require(name, count, at_least=1)


@dataclass(frozen=True)
class InputConfig:
    """How a model sees an image, in training and afterwards; saved with its weights.

    Attributes:
        image_size: height and width in pixels.
        channels: 3 for color, 1 for grayscale.
        mean: mean of each channel, for pixels in 0 to 1.
        std: standard deviation of each channel.
        interpolation: interpolation of resizing.
        crop_fraction: share of the shorter side that the center crop of evaluation keeps.
    """

    image_size: tuple[int, int] = (224, 224)
    channels: Literal[1, 3] = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: Literal["bicubic", "bilinear", "nearest"] = "bicubic"
    crop_fraction: float = 0.875

    def __post_init__(self) -> None:
        for side in self.image_size:
            require("image_size", side, at_least=1)
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.channels:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it must have {self.channels} number(s), one per channel"
                )
        for value in self.std:
            require("std", value, above=0)
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f"crop_fraction is {self.crop_fraction}; it must be above 0 and at most 1")


@dataclass(frozen=True)
class AugmentationConfig:
    """Augmentation in training. The defaults are those of the published recipe.

    Attributes:
        crop_scale: smallest and largest share of an image that a random crop keeps.
        crop_ratio: smallest and largest ratio of width to height of a random crop.
        crop_padding: pixels of padding before a random crop of the image size, which replaces the random resized crop;
            0 for the random resized crop.
        horizontal_flip: probability of a horizontal flip.
        policy: automatic augmentation by its timm name. None for no policy.
        color_jitter: strength of color jitter, which a policy replaces.
        random_erasing: probability that a rectangle of an image is erased.
        erasing_mode: content of an erased rectangle: noise (pixel), one color (rand) or the mean (const).
        repeats: views of an image per step (repeated augmentation); 1 for no repetition.
        mixup: alpha of mixup; 0 for no mixup.
        cutmix: alpha of CutMix; 0 for no CutMix.
        mix_probability: probability that a batch is mixed.
        mix_switch_probability: probability that a mixed batch uses CutMix, if both are on.
    """

    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    crop_padding: int = 0
    horizontal_flip: float = 0.5
    policy: str | None = "rand-m9-mstd0.5-inc1"
    color_jitter: float = 0.4
    random_erasing: float = 0.25
    erasing_mode: Literal["pixel", "rand", "const"] = "pixel"
    repeats: int = 3
    mixup: float = 0.8
    cutmix: float = 1.0
    mix_probability: float = 1.0
    mix_switch_probability: float = 0.5

    def __post_init__(self) -> None:
        for name in ("crop_scale", "crop_ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} is {(low, high)}; it must be two positive numbers, the smaller one first")
        if self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale is {self.crop_scale}; a crop keeps at most 1.0 of an image")
        for name in ("horizontal_flip", "random_erasing", "mix_probability", "mix_switch_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; a probability must be between 0 and 1")
        for name in ("crop_padding", "color_jitter", "mixup", "cutmix"):
            require(name, getattr(self, name), at_least=0)
        require("repeats", self.repeats, at_least=1)

    @property
    def mixes(self) -> bool:
        """Whether the images of a batch are mixed."""
        return (self.mixup > 0 or self.cutmix > 0) and self.mix_probability > 0


NO_AUGMENTATION = AugmentationConfig(
    crop_scale=(1.0, 1.0),
    crop_ratio=(1.0, 1.0),
    horizontal_flip=0.0,
    policy=None,
    color_jitter=0.0,
    random_erasing=0.0,
    repeats=1,
    mixup=0.0,
    cutmix=0.0,
)
