"""Trains one run of a study in the current process, on this machine or another."""

import os
import traceback
from pathlib import Path

import torch
from filelock import FileLock

from localvit.system.errors import Interrupted, LocalViTError
from localvit.system.machine import keep_memory, share_of_cores
from localvit.system.terminal import quiet
from localvit.training import RunConfig, run

# Environment of a process that trains alone. Inside a SLURM job, Lightning would take it for one of the job's tasks.
ALONE = {"SLURM_JOB_NAME": "interactive", "SLURM_NNODES": "1", "SLURM_PROCID": "0"}
_SECONDS_BETWEEN_LOOKS = 0.5


def train(config: RunConfig, folder: Path, threads: int) -> str | None:
    """Train or resume a run. If another process is training it, wait for that one.

    Args:
        config: the run.
        folder: its folder.
        threads: PyTorch threads, unless ``config`` sets them.

    Returns:
        None, or the error of a failed run, with a traceback if users cannot fix it.

    Raises:
        Interrupted: after SIGTERM or SIGINT, once the state is saved.
    """
    quiet()
    keep_memory()
    torch.set_num_threads(threads)
    os.environ["LOCAL_WORLD_SIZE"] = str(share_of_cores(threads))  # loading processes share the cores too
    folder.mkdir(parents=True, exist_ok=True)
    # The lock that `run` takes as well: another study may train the same run, or a process is about to end.
    lock = FileLock(folder / ".lock", is_singleton=True)
    try:
        with lock.acquire(poll_interval=_SECONDS_BETWEEN_LOOKS):
            run(config, folder)
    except Interrupted:
        raise
    except (LocalViTError, ValueError) as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}\n\n{traceback.format_exc()}"
    return None
