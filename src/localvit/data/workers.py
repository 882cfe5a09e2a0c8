"""The processes that load images."""

import os
import signal
from typing import Any

import torch

from localvit.system.machine import share_of_cores

_MOST_WORKERS = 8
_GRACE_SECONDS = 30


def default_workers(world_size: int) -> int:
    """The number of loader processes for each training process on this machine."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    return min(_MOST_WORKERS, share_of_cores(here))


def loader_options(workers: int) -> dict[str, Any]:
    """Options of a ``DataLoader`` with so many processes; 0 loads in the training process."""
    return {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "pin_memory": torch.cuda.is_available(),
        "worker_init_fn": _serve,
    }


def _serve(worker: int) -> None:
    """Outlive the training process and, if it runs on the CPU, give its threads priority.

    A terminal sends Ctrl-C to all processes, and a cluster SIGTERM, but the training process needs images until it has
    written a checkpoint. A loader that is being closed also sends SIGTERM, to processes that it no longer reaches.

    The threads of a training step wait for each other, so a loader that competes with them costs more than its own
    time; it catches up whenever training waits for images.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):  # Windows has neither, and ends processes without a signal
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SECONDS))
        if not torch.accelerator.is_available():
            os.nice(19)
