"""Read checkpoints without running code from them, and write checkpoints that record how their model was localized.

The released files are pickles. A pickle can call any function of any installed package, so they are read by torch's
restricted unpickler, which builds tensors and plain containers and refuses everything else.
"""

import argparse
import copy
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from localvit.locality.localize import Localization, localizations, localize
from localvit.models.official_keys import from_official
from localvit.system.files import replacing

_SHOWN = 10
_METADATA = "localvit"


def save_checkpoint(model: nn.Module, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write the weights of ``model`` and its localization as safetensors.

    An existing file is replaced only once the new one is complete.

    Args:
        model: the model to save.
        path: the file to write.
        metadata: further texts to store in the file, by name.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    localized = json.dumps([asdict(call) for call in localizations(model)])
    with replacing(Path(path)) as file:
        file.write(safetensors.torch.save(tensors, {**(metadata or {}), "format": "pt", _METADATA: localized}))


def load_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Load a checkpoint of the authors or of this project into ``model``; all keys must match.

    A file of :func:`save_checkpoint` records how its model was localized. A model that is not localized yet is
    localized the same way; one that is localized differently is refused, even if the tensors would fit, as they do with
    another activation. If the checkpoint does not fit, the model is left unchanged.

    Args:
        model: a model of the same architecture, number of classes and image size.
        path: the authors' ``.pth`` (a dict whose ``model`` is the state dict, beside optimizer and arguments), a
            pickled state dict, or safetensors. The content decides, not the file name.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file contains no state dict, if it could run code, or if it does not fit the model; the
            message lists the keys and shapes that differ.
    """
    model.load_state_dict(fit(model, read_state_dict(path), path))


def fit(model: nn.Module, state_dict: Mapping[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """Localize ``model`` as recorded in the file, and rename the tensors read from it to the model's keys.

    Raises:
        ValueError: if they do not fit; the model is then left unchanged.
    """
    path = Path(path)
    calls = _missing_localizations(model, path)
    trial = model
    if calls:
        trial = _without_memory(model)
        with torch.device("meta"):
            _repeat(calls, trial, path)
    fitted = from_official(state_dict, trial)
    require_fit(fitted, trial, path)
    _repeat(calls, model, path)
    return fitted


def _missing_localizations(model: nn.Module, path: Path) -> list[Localization]:
    """The calls of ``localize`` that are still missing to match the saved model."""
    saved = read_localizations(path)
    if saved is None or saved == localizations(model):
        return []
    if localizations(model):
        raise ValueError(
            f"{path} was saved from a model localized as {saved}, and this one is localized as {localizations(model)}; "
            "load it into a model that is not localized, or localized the same way"
        )
    return saved


def _repeat(calls: list[Localization], model: nn.Module, path: Path) -> None:
    try:
        for call in calls:
            localize(model, call.config, layers=call.layers, mode=call.mode)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"{path} was saved from a model localized as {calls}, which this {type(model).__name__} cannot be: {error}"
        ) from error


def _without_memory(model: nn.Module) -> nn.Module:
    """A copy on the meta device."""
    shapes: dict[int, Any] = {id(buffer): buffer.to("meta") for buffer in model.buffers()}
    for parameter in model.parameters():
        shapes[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
    return copy.deepcopy(model, shapes)


def read_localizations(path: str | Path) -> list[Localization] | None:
    """How the model in a file of :func:`save_checkpoint` was localized; None for other files.

    Raises:
        ValueError: if this version does not understand the record.
    """
    text = read_metadata(path, _METADATA)
    if text is None:
        return None
    try:
        return [Localization.from_plain(call) for call in json.loads(text)]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"the record in {path} of how its model was localized cannot be read; the file is damaged or from another "
            f"version of localvit: {error}"
        ) from error


def read_metadata(path: str | Path, name: str) -> str | None:
    """The text stored as ``name`` in a safetensors file; None if there is none, and for other files."""
    if _is_pickle(Path(path)):
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            text: str | None = (file.metadata() or {}).get(name)
    except SafetensorError as error:
        raise ValueError(f"{path} is neither a PyTorch file nor whole safetensors: {error}") from error
    return text


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by key, on the CPU; see :func:`load_checkpoint`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint file {path}")
    content = _read_pickle(path) if _is_pickle(path) else _read_safetensors(path)
    for wrapper in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path} holds {_describe(content)}; a state dict maps parameter names to tensors")
    strangers = [key for key, value in content.items() if not isinstance(key, str) or not _is_plain(value)]
    if strangers:
        raise ValueError(
            f"{path} holds no state dict: {_listing(strangers)} are not tensors. It must be a dict of tensors, "
            "or a dict with one under 'model' or 'state_dict'; sparse, quantized and expanded tensors are not read"
        )
    return dict(content)


def _is_plain(value: object) -> bool:
    """Whether a value is a tensor whose every number is in the file; an expanded one can be as large as it says."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not (value.is_quantized or value.is_nested or value.is_meta or value.is_complex())
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _is_pickle(path: Path) -> bool:
    """Whether a file starts like torch's zip archives or bare pickles; safetensors starts with a length and {."""
    with path.open("rb") as file:
        start = file.read(9)
    # A length may start like a pickle, so check the ninth byte too.
    return start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[8:] != b"{")


def require_unpacked(path: Path) -> None:
    """Raise ``ValueError`` for an archive that unpacks to more than its file: PyTorch writes none."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(record.file_size for record in archive.infolist()) > path.stat().st_size:
                raise ValueError("its records are compressed or overlap, which PyTorch never writes")


def _read_pickle(path: Path) -> Any:
    try:
        require_unpacked(path)
        # The authors' files contain their command-line arguments in a Namespace, which only holds attributes. Pass a
        # file object, because torch trusts the suffix .safetensors.
        with torch.serialization.safe_globals([argparse.Namespace]), path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is a pickle with {_refused(error)}, which could run code, so it was not read. A checkpoint may "
            "contain only tensors and plain containers; ask its author for the state dict as safetensors"
        ) from error
    except Exception as error:  # damaged bytes can raise anything
        raise ValueError(f"{path} is a damaged or truncated PyTorch file: {error}") from error


def _refused(error: pickle.UnpicklingError) -> str:
    """What the unpickler refused; the rest of its message advises to load the file all the same."""
    if found := re.search(r"GLOBAL (\S+) was not", str(error)):
        return f"the object {found[1]}"
    found = re.search(r"Unsupported [^\n]+", str(error))
    return "content that PyTorch refuses" if found is None else f"content that PyTorch refuses ({found[0]})"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is neither a PyTorch file nor whole safetensors: {error}") from error


def require_fit(state_dict: Mapping[str, Tensor], model: nn.Module, path: str | Path) -> None:
    """Raise ``ValueError`` unless the keys and shapes of ``state_dict``, read from ``path``, match ``model``."""
    ours = model.state_dict()
    missing = [key for key in ours if key not in state_dict]
    unexpected = [key for key in state_dict if key not in ours]
    shapes = [
        f"{key} is {tuple(state_dict[key].shape)} in the file and {tuple(ours[key].shape)} in the model"
        for key in ours
        if key in state_dict and state_dict[key].shape != ours[key].shape
    ]
    problems = [
        f"{len(items)} {what}: {_listing(items)}"
        for what, items in (
            ("keys of the model that the file lacks", missing),
            ("keys of the file that the model lacks", unexpected),
            ("shapes differ", shapes),
        )
        if items
    ]
    if problems:
        raise ValueError(f"{path} does not fit this {type(model).__name__}.\n" + "\n".join(problems))


def _listing(items: list[str]) -> str:
    return ", ".join(map(str, items[:_SHOWN])) + (f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else "")


def _describe(content: object) -> str:
    return "an empty dict" if content == {} else f"a {type(content).__name__}"
