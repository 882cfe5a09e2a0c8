"""How fast the machine multiplies matrices: what a model's rate is a share of."""

import statistics

import torch

from localvit.benchmark.setting import Setting
from localvit.measurement import Timed, take_turns

_SIDES = {"cpu": 2048, "cuda": 8192}
_SECONDS_A_TURN = 0.2


def machine_rate(setting: Setting, *, rounds: int = 5, side: int | None = None) -> float:
    """Floating-point operations a second of a product of two square matrices, the median of ``rounds``.

    Args:
        setting: whose device, threads and precision; both kinds of bf16 multiply matrices in bfloat16.
        rounds: turns of one product, or several, that are timed.
        side: of the matrices; 2048 on the CPU and 8192 on a GPU by default.

    Raises:
        LocalViTError: where the setting wants a GPU and there is none.
    """
    device = setting.torch_device
    side = side or _SIDES[device.type]
    dtype = torch.float32 if setting.precision == "fp32" else torch.bfloat16
    a_NN, b_NN = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out_NN = torch.empty_like(a_NN)
    wait = torch.cuda.synchronize if device.type == "cuda" else bool
    with setting.its_threads():
        product = Timed(lambda: torch.mm(a_NN, b_NN, out=out_NN), 1, wait)
        products = take_turns({"product": product}, rounds, seconds_a_turn=_SECONDS_A_TURN)["product"]
    if isinstance(products, Exception):
        raise products
    return 2 * side**3 * statistics.median(products)
