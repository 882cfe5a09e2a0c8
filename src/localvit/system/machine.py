"""Cores, memory and description of this machine."""

import contextlib
import ctypes
import os
import platform
from pathlib import Path

# Parameters of glibc's mallopt(3), and their values.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER, _NONE = -1, 0


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_of_cores(processes: int) -> int:
    """Number of cores for each of several processes, at least one."""
    return max(1, cores() // processes)


def keep_memory() -> None:
    """Let this process keep the memory that it frees, instead of returning it to the system.

    Each training step allocates the same large maps. By default, the C library returns them after each use, and the
    system clears every page when it is touched next. On a CPU this can take longer than the computation. In exchange,
    the process stays as large as at its peak. Has no effect on GPU memory, and without glibc.
    """
    _call_c("mallopt", _TRIM_THRESHOLD, _NEVER)
    _call_c("mallopt", _MMAP_MAX, _NONE)


def give_memory_back() -> None:
    """Return all freed memory of this process to the system. Has no effect without glibc."""
    _call_c("malloc_trim", 0)


def describe() -> str:
    """Processor, cores, GPUs and PyTorch version as text."""
    import torch  # takes seconds, and the command line needs other parts of this module at once

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join([f"{_processor()} ({cores()} core{'s' * (cores() > 1)})", *gpus, f"PyTorch {torch.__version__}"])


def _call_c(name: str, *arguments: int) -> None:
    """Call a function of the C library if it exists."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # no such library or function
        getattr(ctypes.CDLL(None), name)(*arguments)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
