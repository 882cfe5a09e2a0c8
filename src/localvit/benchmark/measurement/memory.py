"""Measures the peak memory of code, above what its process used before.

On Linux the peak is ``VmHWM`` in ``/proc/self/status``. Writing 5 to ``/proc/self/clear_refs`` resets it to what is
resident now (proc(5)), so compiling and other one-time work of the first steps does not count, unless its memory stays.
Pages of files, such as the machine code of libraries, are left out: they belong to no model.

The C library keeps freed memory for reuse, which resident memory includes. ``malloc_trim`` returns it to the system
before both readings. Otherwise the allocator is left alone: what it holds in excess during the steps counts, because it
does so in practice too.
"""

import gc
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from localvit.system.machine import give_memory_back

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


def peak_memory(
    prepare: Callable[[], Callable[[], object]], *, device: str = "cpu", warmup: int = 1, steps: int = 2
) -> int | None:
    """Peak memory of steps in bytes, including everything that ``prepare`` created for them.

    Call it in a new process (:func:`localvit.benchmark.measurement.in_process`), which holds nothing else.

    Args:
        prepare: creates what the steps need, and returns a function that takes one step.
        device: cpu for the memory of this process, cuda for GPU memory allocated by PyTorch.
        warmup: number of steps before measuring.
        steps: number of steps to measure.

    Returns:
        Bytes above what was used before ``prepare``. If the system cannot reset the peak, the result includes the
        warm-up. None if the system reports no memory.
    """
    if device == "cuda":
        return _peak_of_gpu(prepare, warmup, steps)
    _trim()
    before, peak_before = _resident(), _peak_of_process()
    step = prepare()
    for _ in range(warmup):
        step()
    _trim()
    reset = _reset_peak()
    for _ in range(steps):
        step()
    if reset and before is not None:
        return _kibibytes("VmHWM") - _kibibytes("RssFile") - _kibibytes("RssShmem") - before
    peak = _peak_of_process()
    return None if peak is None or peak_before is None else peak - peak_before


def _peak_of_gpu(prepare: Callable[[], Callable[[], object]], warmup: int, steps: int) -> int:
    gc.collect()
    before = torch.cuda.memory_allocated()
    step = prepare()
    for _ in range(warmup):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated()) - before


def _trim() -> None:
    gc.collect()
    give_memory_back()


def _reset_peak() -> bool:
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def _resident() -> int | None:
    """Resident memory of this process in bytes, without pages of files."""
    try:
        return _kibibytes("RssAnon")
    except (OSError, KeyError):
        return None


def _kibibytes(name: str) -> int:
    """A field of the process status in bytes."""
    fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return 1024 * int(fields[name].split()[0])


def _peak_of_process() -> int | None:
    try:
        import resource  # missing on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
