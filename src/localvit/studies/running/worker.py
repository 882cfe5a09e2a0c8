"""What a process does for one run of a study, wherever the process is."""

import os
import traceback
from pathlib import Path

import torch
from filelock import FileLock

from localvit.system.errors import Interrupted, LocalViTError
from localvit.system.machine import keep_memory, share_of_cores
from localvit.system.terminal import quiet
from localvit.training import RunConfig, run

# Variables of a process that trains alone. In a job of SLURM it would take itself for one of the job's processes.
ALONE = {"SLURM_JOB_NAME": "interactive", "SLURM_NNODES": "1", "SLURM_PROCID": "0"}
_SECONDS_BETWEEN_LOOKS = 0.5


def train(config: RunConfig, folder: Path, threads: int) -> str | None:
    """Train a run, go on with it, or wait until another process has trained it.

    Args:
        config: of the run.
        folder: of the run.
        threads: that PyTorch may use, unless ``config`` says how many.

    Returns:
        What is wrong, where the run failed; for an error that the user cannot mend its traceback too.

    Raises:
        Interrupted: after SIGTERM or SIGINT, when the state is saved.
    """
    quiet()
    keep_memory()
    torch.set_num_threads(threads)
    os.environ["LOCAL_WORLD_SIZE"] = str(share_of_cores(threads))  # so loading processes share the cores too
    while True:
        try:
            _wait_until_free(folder)
            run(config, folder)
        except Interrupted:
            raise
        except (LocalViTError, ValueError) as error:
            if str(error).startswith("another process trains"):  # it was faster
                continue
            return str(error)
        except Exception as error:
            return f"{type(error).__name__}: {error}\n\n{traceback.format_exc()}"
        return None


def _wait_until_free(folder: Path) -> None:
    """Return when no other process trains in ``folder``: one of another study, or one that is just being ended."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock").acquire(poll_interval=_SECONDS_BETWEEN_LOOKS):
        pass
