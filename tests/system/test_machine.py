"""Memory that a process keeps."""

import ctypes
import platform
import subprocess
import sys

import pytest

from localvit.system.machine import keep_memory

# Minor page faults while 64 MiB are asked for, filled and freed a number of times.
FAULTS = """
import resource, torch
from localvit import keep_memory
if {keep}: keep_memory()
def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.empty(16 * 2**20).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(10)
print(faults(40))
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other ways")
def test_kept_memory_is_used_again_without_asking_the_system() -> None:
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, check=True).stdout)
        for keep in (True, False)
    )
    assert given_back >= 40 * 64 * 2**20 / 2**21  # pages have 4 KiB, 2 MiB at most
    assert kept < given_back / 2


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: object) -> None:
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    keep_memory()
