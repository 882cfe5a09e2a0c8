"""Describes a model well enough to build it, preprocess its images and name its classes; and reads and writes JSON.

The JSON may come from an untrusted file, so a description validates itself.
"""

import dataclasses
import difflib
import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import timm
from timm.data import ImageNetInfo
from timm.models import build_model_with_cfg

from localvit.data.config import InputConfig
from localvit.models.build import build  # importing the models also registers them with timm

_VERSION = 1
_MOST_SIDE = 4096  # pixels; such an image takes 200 MB
_MOST_NUMBER = 100_000
_MOST_LAYERS = 1000
_MOST_PIXEL = 1e9  # of the mean and standard deviation; JSON has whole numbers larger than any float

# Arguments that make timm load other weights or read other files, that change what a model returns, or that follow from
# the rest of a description: all that timm takes besides the arguments of the model itself.
REFUSED_ARGUMENTS = frozenset(
    {
        "device",
        "dtype",
        "feature_cls",
        "features_only",
        "img_size",
        "in_chans",
        "num_classes",
        "pretrained_model_args",
        "pruned",
    }.union(*(inspect.signature(function).parameters for function in (timm.create_model, build_model_with_cfg, build)))
)


@dataclass(frozen=True)
class ModelDescription:
    """The description of a model in a file of weights.

    Attributes:
        name: the timm name of the model; see :func:`require_known`.
        arguments: further arguments of ``timm.create_model`` as plain JSON, besides classes, channels and image size.
        class_names: names of its outputs, in order.
        input: preprocessing of its images.

    Raises:
        ValueError: for a name that timm does not know, arguments that are not plain JSON or not allowed
            (``REFUSED_ARGUMENTS``), no classes, or implausible sizes.
    """

    name: str
    arguments: dict[str, Any]
    class_names: tuple[str, ...]
    input: InputConfig

    def __post_init__(self) -> None:
        require_known(self.name)
        _require_arguments(self.arguments)
        if not self.class_names or not all(isinstance(name, str) for name in self.class_names):
            raise ValueError(f"class_names is {self.class_names!r:.100}; it must be one name per class")
        if max(self.input.image_size) > _MOST_SIDE:
            raise ValueError(f"image_size is {self.input.image_size}; it must be at most {_MOST_SIDE}")

    def to_json(self) -> str:
        """The description as JSON."""
        return json.dumps({"version": _VERSION, **dataclasses.asdict(self)}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "ModelDescription":
        """Parse the output of :meth:`to_json`; ``ValueError`` for anything else."""
        values = json.loads(text)
        version = values.get("version") if isinstance(values, dict) else None
        if version != _VERSION:
            raise ValueError(f"version is {version!r}; this localvit reads {_VERSION}")
        del values["version"]
        _require_fields(cls, values)
        _require_fields(InputConfig, values["input"])
        if not isinstance(values["class_names"], list):
            raise ValueError("class_names must be a list")
        given: Any = {key: tuple(value) if isinstance(value, list) else value for key, value in values["input"].items()}
        shown = InputConfig(**given)
        _require_types(shown)
        return cls(values["name"], values["arguments"], tuple(values["class_names"]), shown)


def description_from(text: str, path: str | Path) -> ModelDescription:
    """Parse the description stored in a file.

    Raises:
        ValueError: if it is damaged, or this version does not understand it.
    """
    try:
        return ModelDescription.from_json(text)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"the model description in {path} is damaged or from another version of localvit: {error}"
        ) from error


def require_known(name: str) -> None:
    """Raise ``ValueError`` unless ``name`` is in timm's registry; folders and the hub are refused."""
    if not isinstance(name, str) or not re.fullmatch(r"\w+(\.\w+)?", name, re.ASCII):
        raise ValueError(f"the model is {name!r:.100}; it must be a plain name, such as localvit_tiny_patch16_224")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        suggestion = f"; near are {', '.join(near)}" if near else ""
        raise ValueError(f"there is no model {name:.100}{suggestion}. timm.list_models() lists all models")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ValueError(f"the model is {name}, and timm does not know the part after the dot: {error}") from error


def input_of(config: Mapping[str, Any]) -> InputConfig:
    """The preprocessing that a model's configuration of timm (``model.pretrained_cfg``) asks for."""
    channels, height, width = config["input_size"]
    known = config["interpolation"] in ("bicubic", "bilinear", "nearest")
    return InputConfig(
        image_size=(height, width),
        channels=channels,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"] if known else "bicubic",
        crop_fraction=config["crop_pct"],
    )


def class_names_of(num_classes: int, names: Any = None) -> tuple[str, ...]:
    """Names of classes: those of timm's ``label_names``, or ImageNet-1k's for 1000 classes, or numbers."""
    if isinstance(names, dict):
        names = [names.get(str(index), str(index)) for index in range(num_classes)]
    if names:
        return tuple(names)
    if num_classes == 1000:
        imagenet = ImageNetInfo()
        return tuple(imagenet.index_to_description(index) for index in range(1000))
    return tuple(map(str, range(num_classes)))


def _require_arguments(arguments: Any) -> None:
    if not isinstance(arguments, dict):
        raise ValueError(f"arguments is {arguments!r:.100}; it must map names to values")
    for key, value in arguments.items():
        if not isinstance(key, str) or key in REFUSED_ARGUMENTS:
            raise ValueError(f"arguments has {key!r:.100}, which a description may not have")
        most = _MOST_LAYERS if key.startswith(("depth", "num_layers", "num_blocks")) else _MOST_NUMBER
        _require_plain(key, value, most)


def _require_plain(key: str, value: Any, most: float) -> None:
    if isinstance(value, dict):
        _require_arguments(value)
    elif isinstance(value, list | tuple):
        for item in value:
            _require_plain(key, item, most)
    elif isinstance(value, int | float):
        if not abs(value) <= most:  # nor NaN
            raise ValueError(f"argument {key} is {value!s:.100}; it must be finite and at most {most:,}")
    elif not (value is None or isinstance(value, str)):
        raise ValueError(
            f"argument {key} is {value!r:.100}; it must be plain JSON: a string, a number, or a list of them"
        )


def _require_fields(config: type, values: Any) -> None:
    names = {field.name for field in dataclasses.fields(config)}
    if not isinstance(values, dict) or set(values) != names:
        given = ", ".join(map(repr, values)) if isinstance(values, dict) else repr(values)
        raise ValueError(f"the fields of a {config.__name__} are {', '.join(sorted(names))}, not {given:.200}")


def _require_types(shown: InputConfig) -> None:
    """Check the types, which ``InputConfig`` itself does not."""
    for name, kinds in {"image_size": (int,), "mean": (int, float), "std": (int, float)}.items():
        values = getattr(shown, name)
        if not isinstance(values, tuple) or not all(
            type(value) in kinds and abs(value) < _MOST_PIXEL for value in values
        ):
            raise ValueError(f"{name} is {values!r:.100}; it must be a list of numbers")
    if len(shown.image_size) != 2:
        raise ValueError(f"image_size is {shown.image_size!r:.100}; it must be height and width")
    for name in ("channels", "interpolation"):
        allowed = get_args(get_type_hints(InputConfig)[name])
        if getattr(shown, name) not in allowed:
            raise ValueError(f"{name} is {getattr(shown, name)!r:.100}; it must be one of {allowed}")
