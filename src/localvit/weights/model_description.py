"""What a model is: enough to build it, to show it images and to name what it answers; and the same as JSON.

The JSON may come from a file that nobody vouches for, so a description checks itself.
"""

import dataclasses
import difflib
import json
import math
import re
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

import timm

import localvit.models  # noqa: F401  # registers the models with timm in processes that only import this module
from localvit.data.config import InputConfig

_VERSION = 1
_MOST_SIDE = 4096  # pixels; an image of it takes 200 MB
_MOST_NUMBER = 100_000
_MOST_LAYERS = 1000

# Arguments that make timm load other weights or read other files, that change what comes out of a model, or that follow
# from the rest of a description.
REFUSED_ARGUMENTS = frozenset(
    {
        "cache_dir",
        "checkpoint_path",
        "device",
        "dtype",
        "exportable",
        "feature_cfg",
        "feature_cls",
        "features_only",
        "filter_fn",
        "img_size",
        "in_chans",
        "kwargs_filter",
        "model_cfg",
        "model_class",
        "model_cls",
        "model_name",
        "no_jit",
        "num_classes",
        "out_indices",
        "place",
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "pretrained_filter_fn",
        "pretrained_model_args",
        "pretrained_strict",
        "pruned",
        "scriptable",
        "variant",
    }
)


@dataclass(frozen=True)
class ModelDescription:
    """What a file of weights says of its model.

    Attributes:
        name: that timm knows the model by; see :func:`require_known`.
        arguments: plain JSON, with which ``timm.create_model`` made it, beside classes, channels and image size.
        class_names: of its outputs, in their order.
        input: what it is shown of an image.

    Raises:
        ValueError: for a name that timm does not know, arguments that are not plain or not allowed
            (``REFUSED_ARGUMENTS``), no classes, or sizes that no model has.
    """

    name: str
    arguments: dict[str, Any]
    class_names: tuple[str, ...]
    input: InputConfig

    def __post_init__(self) -> None:
        require_known(self.name)
        _require_arguments(self.arguments)
        if not self.class_names or not all(isinstance(name, str) for name in self.class_names):
            raise ValueError(f"class_names is {self.class_names!r:.100}; it must be one text for each class")
        if max(self.input.image_size) > _MOST_SIDE:
            raise ValueError(f"image_size is {self.input.image_size}; it must be at most {_MOST_SIDE}")

    def to_json(self) -> str:
        """For a file."""
        return json.dumps({"version": _VERSION, **dataclasses.asdict(self)}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "ModelDescription":
        """The description that :meth:`to_json` wrote; ``ValueError`` for any other text."""
        values = json.loads(text)
        version = values.get("version") if isinstance(values, dict) else None
        if version != _VERSION:
            raise ValueError(f"version is {version!r}; this localvit reads {_VERSION}")
        del values["version"]
        _require_fields(cls, values)
        _require_fields(InputConfig, values["input"])
        if not isinstance(values["class_names"], list):
            raise ValueError("class_names is no list")
        given: Any = {key: tuple(value) if isinstance(value, list) else value for key, value in values["input"].items()}
        shown = InputConfig(**given)
        _require_types(shown)
        return cls(values["name"], values["arguments"], tuple(values["class_names"]), shown)


def require_known(name: str) -> None:
    """Raise ``ValueError`` unless ``name`` is of a model in timm's registry, not in a folder or on the hub."""
    if not isinstance(name, str) or not re.fullmatch(r"\w+(\.\w+)?", name, re.ASCII):
        raise ValueError(f"the model is {name!r:.100}; it must be a plain name, such as localvit_tiny_patch16_224")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        suggestion = f"; near are {', '.join(near)}" if near else ""
        raise ValueError(f"there is no model {name:.100}{suggestion}. timm.list_models() lists those there are")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ValueError(f"the model is {name}, and what follows its point is unknown: {error}") from error


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
        if not math.isfinite(value) or abs(value) > most:
            raise ValueError(f"argument {key} is {value}; no model has a number beyond {most:,}")
    elif not (value is None or isinstance(value, str)):
        raise ValueError(
            f"argument {key} is {value!r:.100}; it must be plain JSON: a text, a number, or a list of them"
        )


def _require_fields(config: type, values: Any) -> None:
    names = {field.name for field in dataclasses.fields(config)}
    if not isinstance(values, dict) or set(values) != names:
        given = ", ".join(map(repr, values)) if isinstance(values, dict) else repr(values)
        raise ValueError(f"a {config.__name__} has {', '.join(sorted(names))}, and here are {given:.200}")


def _require_types(shown: InputConfig) -> None:
    """The types that ``InputConfig`` trusts its maker to give."""
    for name, kinds in {"image_size": (int,), "mean": (int, float), "std": (int, float)}.items():
        values = getattr(shown, name)
        if not isinstance(values, tuple) or not all(type(value) in kinds and math.isfinite(value) for value in values):
            raise ValueError(f"{name} is {values!r:.100}; it must be a list of numbers")
    if len(shown.image_size) != 2:
        raise ValueError(f"image_size is {shown.image_size!r:.100}; it must be height and width")
    for name in ("channels", "interpolation"):
        allowed = get_args(get_type_hints(InputConfig)[name])
        if getattr(shown, name) not in allowed:
            raise ValueError(f"{name} is {getattr(shown, name)!r:.100}; it must be one of {allowed}")
