"""Seeds random number generators."""

import random

import numpy as np
import torch


def seed_cpu(seed: int) -> None:
    """Seed Python, NumPy and PyTorch on the CPU.

    ``torch.manual_seed`` would also seed GPUs. If none is in use yet, as in loading processes, it records the call
    stack every time, which takes longer than decoding a small image.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
