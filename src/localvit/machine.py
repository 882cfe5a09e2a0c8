"""The machine that this process runs on."""

import os
import platform
from pathlib import Path

import torch


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_of_cores(processes: int) -> int:
    """Cores for each of so many processes, at least one."""
    return max(1, cores() // processes)


def describe() -> str:
    """Processor, cores, GPUs and version of PyTorch, in words."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join([f"{_processor()} ({cores()} cores)", *gpus, f"PyTorch {torch.__version__}"])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
