"""Finds models on the Hugging Face hub, and in folders of the hub's form.

Such a folder has ``config.json`` in timm's form and ``model.safetensors``. ``timm.create_model`` reads both, and
:func:`localvit.load_model` the weights, which hold a description of their own if this project wrote them.
"""

import re
from pathlib import Path

import timm
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from localvit.models.weights.model_description import ModelDescription, class_names_of, input_of, require_known
from localvit.system.errors import LocalViTError
from localvit.system.plain_files import read_json

WEIGHTS, CONFIG = "model.safetensors", "config.json"
HUB, FOLDER = "hf-hub:", "local-dir:"


class HubError(LocalViTError):
    """The hub refuses, has no such model, or cannot be reached."""


def is_hub_name(path: str | Path) -> bool:
    """Whether ``path`` names a model on the hub or a folder of the hub's form, rather than a file."""
    return str(path).startswith((HUB, FOLDER))


def file_of(name: str, file: str) -> Path:
    """A file of a model: on the hub, then it is downloaded into Hugging Face's cache, or in a folder.

    Args:
        name: ``hf-hub:USER/NAME``, ``hf-hub:USER/NAME@REVISION``, or ``local-dir:FOLDER``.
        file: name of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        HubError: if the hub has no such model, refuses it, or cannot be reached.
        ValueError: if the hub allows no such name.
    """
    if name.startswith(FOLDER):
        path = Path(name.removeprefix(FOLDER), file)
        if not path.is_file():
            raise FileNotFoundError(f"there is no {file} in {path.parent}")
        return path
    repository, _, revision = name.removeprefix(HUB).partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"{name:.200} names no model on the hub; it must be hf-hub:USER/NAME")
    try:
        return Path(hf_hub_download(repository, file, revision=revision or None))
    except HFValidationError as error:
        raise ValueError(f"{name:.200} names no model on the hub: {error}") from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"the hub has no model {repository}, or it is private; `hf auth login` stores a token"
        ) from error
    except LocalEntryNotFoundError as error:
        raise HubError(f"{repository} is not in the cache, and the hub cannot be reached") from error
    except EntryNotFoundError as error:
        raise FileNotFoundError(f"there is no {file} in {repository} on the hub") from error
    except (HfHubHTTPError, OSError) as error:
        raise HubError(f"{repository} cannot be read from the hub: {first_line(error)}") from error


def weights_of(path: str | Path) -> Path:
    """The file of weights of a model that is named as for :func:`file_of`; any other path is a file already."""
    return file_of(str(path), WEIGHTS) if is_hub_name(path) else Path(path)


def name_of(path: str | Path) -> str:
    """What to call a model in titles and file names: its name on the hub, or else its folder's."""
    name = str(path)
    if name.startswith(HUB):
        return name.removeprefix(HUB).partition("@")[0].rpartition("/")[2]
    return weights_of(path).resolve().parent.name


def describe_by_config(name: str) -> ModelDescription:
    """The description of a model by its ``config.json``, for weights without one, such as timm's own.

    Args:
        name: see :func:`file_of`.

    Raises:
        ValueError: if the file is damaged, or describes no model of timm.
        FileNotFoundError, HubError: see :func:`file_of`.
    """
    path = file_of(name, CONFIG)
    values = read_json(path)
    try:
        architecture, arguments = values["architecture"], dict(values.get("model_args") or {})
        require_known(architecture)
        known = timm.get_pretrained_cfg(architecture)
        config = {**(known.to_dict() if known else {}), **values["pretrained_cfg"]}
        names = values.get("label_names") or config.get("label_names")
        num_classes = int(values.get("num_classes", config["num_classes"]))
        for follows in ("in_chans", "img_size", "num_classes"):
            arguments.pop(follows, None)
        return ModelDescription(architecture, arguments, class_names_of(num_classes, names), input_of(config))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} describes no model of timm: {type(error).__name__}: {error}") from error


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
