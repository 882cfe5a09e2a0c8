"""Where images come from, what a model is shown of them, and how training augments them."""

from dataclasses import dataclass
from typing import Literal, get_args

from localvit.system.errors import require

SourceKind = Literal["folder", "parquet", "webdataset", "huggingface", "torchvision", "digits"]
CategoryLevel = Literal["full", "super"]


@dataclass(frozen=True)
class DataConfig:
    """The labelled images of a run: a part to learn from and a part held out.

    Attributes:
        source: folder (root/train/<class>/*.jpg), parquet (root/train*.parquet with image bytes and labels), webdataset
            (root/train*.tar), huggingface (a dataset of the hub, by name), torchvision (a named set of torchvision), or
            digits (1,797 scans of 8 x 8 pixels that come with scikit-learn, no download).
        root: folder of the images, shards or files; for torchvision where the set lies or is downloaded to.
        name: of the set, for huggingface (such as uoft-cs/cifar10) and torchvision (cifar10, cifar100,
            inaturalist_2018, inaturalist_2019).
        train_split: name of the part to learn from: a folder, the start of file names, or a split of the hub.
        val_split: name of the part held out.
        held_out: share of every class that is held out of the part to learn from, where there is no other part: its
            last images, in the order of the source; 0 where the source has both parts.
        classes: names of those to use, with outputs numbered in the order of the source; none for all.
        train_images: learn from the first so many images only, a fair sample where the source is shuffled; none for
            all.
        val_images: hold out the first so many images only; none for all.
        image_key: column or file extensions of the image, for parquet, webdataset (jpg;jpeg;png;webp) and huggingface.
        label_key: column, extension or field of the label, for the same.
        category: what is a class, for iNaturalist: a species (full) or a super category (super).
        download: whether a torchvision set may be downloaded.
        on_broken: whether an image that cannot be read stops the run, or is skipped and listed in the run's folder.
        cache: folder for indexes of image folders and for shards made random-access; the user's cache by default.
    """

    source: SourceKind = "folder"
    root: str | None = None
    name: str | None = None
    train_split: str = "train"
    val_split: str = "val"
    held_out: float = 0.0
    classes: tuple[str, ...] | None = None
    train_images: int | None = None
    val_images: int | None = None
    image_key: str | None = None
    label_key: str | None = None
    category: CategoryLevel = "full"
    download: bool = False
    on_broken: Literal["stop", "skip"] = "stop"
    cache: str | None = None

    def __post_init__(self) -> None:
        if self.source not in get_args(SourceKind):
            raise ValueError(f"source is {self.source!r}; it must be one of {', '.join(get_args(SourceKind))}")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}; it must be a share of at least 0 and below 1")
        if self.classes is not None and len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes is {self.classes}; it names a class twice")
        for name in ("train_images", "val_images"):
            if (count := getattr(self, name)) is not None:
                require(name, count, at_least=1)


@dataclass(frozen=True)
class InputConfig:
    """What the model is shown of an image, in training and after it; saved with the weights.

    Attributes:
        image_size: height and width in pixels.
        channels: 3 for colour, 1 for grey.
        mean: of each channel, pixels being in 0 to 1; as many as channels.
        std: standard deviation of each channel.
        interpolation: of resizing.
        crop_fraction: share of the shorter side that evaluation keeps, from the middle.
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
                raise ValueError(f"{name} is {getattr(self, name)}; {self.channels} channels need as many numbers")
        for value in self.std:
            require("std", value, above=0)
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f"crop_fraction is {self.crop_fraction}; it must be above 0 and at most 1")


@dataclass(frozen=True)
class AugmentationConfig:
    """What training does to images; the defaults are the published recipe's.

    Attributes:
        crop_scale: smallest and largest share of an image that a random crop keeps.
        crop_ratio: smallest and largest width over height of a random crop.
        crop_padding: instead of a resized crop, pad so many pixels and crop the image size; 0 for the resized crop.
        horizontal_flip: probability of mirroring.
        policy: of automatic augmentation, as timm names them; none for none.
        color_jitter: strength, where there is no policy.
        random_erasing: probability that a rectangle of an image is erased.
        erasing_mode: what erased pixels become: noise (pixel), one colour (rand) or the mean (const).
        repeats: views of an image in a step (repeated augmentation); 1 for none.
        mixup: alpha of mixup; 0 for none.
        cutmix: alpha of cutmix; 0 for none.
        mix_probability: that a batch is mixed at all.
        mix_switch_probability: that it is by cutmix, where both are on.
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
                raise ValueError(f"{name} is {(low, high)}; it must be two positive numbers, the smaller first")
        if self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale is {self.crop_scale}; a crop keeps at most 1.0 of an image")
        for name in ("horizontal_flip", "random_erasing", "mix_probability", "mix_switch_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; a probability lies in 0 to 1")
        for name in ("crop_padding", "color_jitter", "mixup", "cutmix"):
            require(name, getattr(self, name), at_least=0)
        require("repeats", self.repeats, at_least=1)

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed with each other."""
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
