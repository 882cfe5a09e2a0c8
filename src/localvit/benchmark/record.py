"""Where numbers come from, for whoever reads them later."""

import platform
from datetime import UTC, datetime
from typing import Any

import torch

from localvit.system.machine import cores, describe
from localvit.training.record import command_line, git_state, versions


def provenance() -> dict[str, Any]:
    """Command, machine, cores, threads, versions, time and state of the code, of this process and now."""
    return {
        "command": command_line(),
        "machine": describe(),
        "system": platform.system(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": git_state(),
    }
