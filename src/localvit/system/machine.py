"""The machine that this process runs on."""

import contextlib
import ctypes
import os
import platform
from pathlib import Path

# Of mallopt(3), glibc's.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER, _NONE = -1, 0


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_of_cores(processes: int) -> int:
    """Cores for each of so many processes, at least one."""
    return max(1, cores() // processes)


def keep_memory() -> None:
    """Let this process keep memory that it frees, for what it does next, rather than give it back to the system.

    Each step of a training asks for the same large maps. By default the C library returns them after each use, and the
    system clears every page again when it is next touched, which on a CPU can take longer than the computation. The
    process stays as large as it was at its peak. Without effect where the C library is not glibc, and on GPU memory.
    """
    _call_c("mallopt", _TRIM_THRESHOLD, _NEVER)
    _call_c("mallopt", _MMAP_MAX, _NONE)


def give_memory_back() -> None:
    """Give memory that this process has freed back to the system, kept or not; without effect where not glibc."""
    _call_c("malloc_trim", 0)


def describe() -> str:
    """Processor, cores, GPUs and PyTorch version, in words."""
    import torch  # takes seconds, and the command line needs the rest of this module sooner

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join([f"{_processor()} ({cores()} cores)", *gpus, f"PyTorch {torch.__version__}"])


def _call_c(name: str, *arguments: int) -> None:
    """Call a function of the C library, where it has it."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # no such function, or no such library
        getattr(ctypes.CDLL(None), name)(*arguments)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
