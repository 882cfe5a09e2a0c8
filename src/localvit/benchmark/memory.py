"""The memory of a contestant, in a process of its own."""

import torch

from localvit.benchmark.contestant import Contestant, Stepper
from localvit.benchmark.measurement import in_process, peak_memory
from localvit.benchmark.setting import Setting


def contestant_memory(contestant: Contestant, setting: Setting) -> int | None:
    """Bytes of a step at its peak, with model, optimizer and images.

    The process takes a step with a model that it throws away before it looks at its memory. So what stays of a first
    use, such as the modules and caches of the compiler, does not count.

    Raises:
        ProcessError: where the contestant fails, or cannot be handed to a process.
    """
    found: int | None = in_process(_memory, contestant, setting)
    return found


def _memory(contestant: Contestant, setting: Setting) -> int | None:
    with setting.its_threads():
        Stepper(contestant, setting).step()
        torch.compiler.reset()
        return peak_memory(lambda: Stepper(contestant, setting).step, device=setting.torch_device.type)
