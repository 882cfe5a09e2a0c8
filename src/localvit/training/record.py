"""The record of where the numbers of a run come from, for whoever opens its folder years later."""

import contextlib
import json
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from localvit.system.files import write_text
from localvit.system.plain_files import read_json

RECORD = "record.json"
_PACKAGES = ("localvit", "torch", "torchvision", "timm", "lightning", "numpy", "pillow", "datasets")


def note_start(folder: Path, *, seed: int, world_size: int) -> None:
    """Record that a run starts or resumes now: command, versions, state of the code and machine."""
    path = folder / RECORD
    starts = _starts(path)
    starts.append(
        {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": command_line(),
            "seed": seed,
            "processes": world_size,
            "versions": versions(),
            "code": git_state(),
            "machine": {
                "system": platform.platform(),
                "processor": platform.processor() or platform.machine(),
                "threads": torch.get_num_threads(),
                "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
            },
        }
    )
    write_text(path, json.dumps({"starts": starts}, indent=1))


def _starts(path: Path) -> list[Any]:
    """The starts so far; ``ValueError`` if the record is damaged."""
    values = read_json(path) if path.exists() else {"starts": []}
    starts = values.get("starts") if isinstance(values, dict) else None
    if not isinstance(starts, list):
        raise ValueError(f"{path} holds no starts of a run; remove it to record the next ones")
    return starts


def command_line() -> str:
    """The command that started this process, as typed in a shell."""
    name = Path(sys.argv[0]).name
    return shlex.join(["localvit" if name == "__main__.py" else name, *sys.argv[1:]])


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that affect results; None for a package that is not installed."""
    found: dict[str, str | None] = {**dict.fromkeys(_PACKAGES), "python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def git_state() -> dict[str, Any] | None:
    """Commit and changed files of this project's checkout; None if it was installed without one."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # an environment inside another project is not its checkout
        return {"commit": git("rev-parse", "HEAD").strip(), "changed": git("status", "--porcelain").splitlines()}
    except (OSError, subprocess.SubprocessError):
        return None
