"""Whether two folders of results hold the same, to the bit, but for what names a moment or a duration."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import safe_open

# They say when, how fast and by which command something was done. They must be there, whatever is in them.
_SAY_WHEN = ("record.json", "study.json", "report.html", "report.md", "results.tex", "log.txt")
_RECORDS = ("command", "code", "record")  # of a study, and of an analysis
_DURATIONS = ["seconds", "images_per_second", "waited_for_data"]
_LOCKS = ".lock"


def difference(folder: Path, expected: Path, *, needless: str | None = None) -> str | None:
    """How ``folder`` differs from what is expected, in words, or None. It may lack files that are in ``needless``."""
    found, wanted = files(folder), files(expected)
    if needless is not None:
        wanted = {name for name in wanted if name in found or not name.startswith(f"{needless}/")}
    if missing := sorted(wanted - found):
        return f"{', '.join(missing[:3])} is missing"
    if left := sorted(found - wanted):
        return f"{', '.join(left[:3])} is left over"
    changed = sorted(name for name in wanted if content(folder / name) != content(expected / name))
    return f"{', '.join(changed[:3])} differs" if changed else None


def files(folder: Path) -> set[str]:
    """The names of all files below a folder, locks excepted."""
    return {
        path.relative_to(folder).as_posix()
        for path in below(folder)
        if path.is_file() and not path.name.startswith(_LOCKS) and not path.name.endswith(_LOCKS)
    }


def unfinished(folder: Path) -> list[Path]:
    """The files below a folder that were being written when their process died, and folders of converted shards."""
    return sorted(path for path in below(folder) if path.match(".*.tmp") or path.match("*.incomplete"))


def below(folder: Path) -> list[Path]:
    """All files and folders below a folder, without those that vanish while they are listed."""
    return [Path(place, name) for place, folders, names in os.walk(folder) for name in (*folders, *names)]


def content(path: Path) -> Any:
    """What must be the same in a file."""
    if path.name in _SAY_WHEN:
        return None
    if path.suffix == ".safetensors":
        return _tensors(path)
    if path.name == "result.json":
        return {name: value for name, value in json.loads(path.read_text()).items() if name != "timing"}
    if path.name == "results.json":
        values = {name: value for name, value in json.loads(path.read_text()).items() if name not in _RECORDS}
        for look in values.get("looks", []):
            del look["time"]
        return values
    if path.name == "metrics.csv":
        return pd.read_csv(path).drop(columns=_DURATIONS, errors="ignore").to_csv()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _tensors(path: Path) -> dict[str, tuple[str, str]]:
    """Type and bits of each tensor; the order of a file's metadata is not determined."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    return {
        name: (str(tensor.dtype), hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest())
        for name, tensor in tensors.items()
    }
