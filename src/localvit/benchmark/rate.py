"""Measures how fast this machine multiplies matrices, which utilization is relative to."""

import statistics

import torch
from torch.nn import functional

from localvit.benchmark.measurement import Timed, take_turns
from localvit.benchmark.setting import Setting

_SIDES = {"cpu": 2048, "cuda": 8192}
_SECONDS_A_TURN = 0.2


def machine_rate(setting: Setting, *, rounds: int = 5, side: int | None = None) -> float:
    """Floating-point operations per second of a product of two square matrices, as the median over rounds.

    The product is computed as a matrix product and as a 1 x 1 convolution, by different libraries; the faster counts.

    Args:
        setting: determines device, threads and precision. Both bf16 precisions multiply in bfloat16.
        rounds: number of turns.
        side: side of the matrices. Defaults to 2048 on the CPU and 8192 on a GPU.

    Raises:
        LocalViTError: if the setting requires a GPU and there is none.
    """
    device = setting.torch_device
    side = side or _SIDES[device.type]
    dtype = torch.float32 if setting.precision == "fp32" else torch.bfloat16
    a_NN, b_NN = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    image_1NN1, weight_NN11 = a_NN.t()[None, :, :, None], b_NN[:, :, None, None]
    wait = torch.cuda.synchronize if device.type == "cuda" else bool
    with setting.its_threads():
        outcomes = take_turns(
            {
                "product": Timed(lambda: a_NN @ b_NN, 1, wait),
                "convolution": Timed(lambda: functional.conv2d(image_1NN1, weight_NN11), 1, wait),
            },
            rounds,
            seconds_a_turn=_SECONDS_A_TURN,
        )
    rates = []
    for products in outcomes.values():
        if isinstance(products, Exception):
            raise products
        rates.append(2 * side**3 * statistics.median(products))
    return max(rates)
