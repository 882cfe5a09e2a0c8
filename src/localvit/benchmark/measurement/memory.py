"""The most memory that code takes, above what its process had before.

On Linux the peak is ``VmHWM`` of ``/proc/self/status``, which writing 5 to ``/proc/self/clear_refs`` sets back to what
is resident now (proc(5)). So compiling, and whatever else the first steps do once, does not count, unless it stays.
Pages of files, the machine code of libraries, are left out: they are read when first used and are no model's.

The C library keeps freed memory to give it out again, and resident memory would count it. ``malloc_trim`` gives it back
to the system before both readings. The allocator is otherwise left as it is: what it holds beyond what is asked of it
during the steps counts, as it does in use.
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
    """Bytes that steps take at their peak, with all that ``prepare`` made for them.

    Call it in a process of its own (:func:`localvit.benchmark.measurement.in_process`), which holds nothing else.

    Args:
        prepare: makes what the steps need, and returns a function that takes one.
        device: cpu for the memory of this process, cuda for the GPU's as PyTorch hands it out.
        warmup: steps before the peak is looked at.
        steps: steps whose peak counts.

    Returns:
        Bytes above what was taken before ``prepare``. Where the peak cannot be set back, the peak of the whole process
        above what it had been, warm-up included; None where the system tells nothing.
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
    """Bytes of this process that are in memory and of no file."""
    try:
        return _kibibytes("RssAnon")
    except (OSError, KeyError):
        return None


def _kibibytes(name: str) -> int:
    """A field of the process's status, in bytes."""
    fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return 1024 * int(fields[name].split()[0])


def _peak_of_process() -> int | None:
    try:
        import resource  # Unix alone has it
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
