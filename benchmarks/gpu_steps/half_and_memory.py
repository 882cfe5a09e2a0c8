"""Step 4: float16, synchronized batch norms on one device, and the memory of each form of training."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import distributed, nn
from twins import BASELINES

from gpu_steps.arithmetic import distance, train
from gpu_steps.clock import BATCH_SIZE, memory, over
from gpu_steps.correctness import in_precision
from gpu_steps.hard_activations import exact
from gpu_steps.models import PAIRS, Place, Size, create
from gpu_steps.recipe import train_on_noise
from gpu_steps.running import Item, Row, Step
from gpu_steps.subject import Subject
from localvit import save_memory, use_triton
from localvit.benchmark import Contestant, Setting, measure, ratio

COLUMNS = ("what", "form", "precision", "outputs", "gradients", "images/s", "ratio", "peak MiB", "memory ratio")
TWIN = PAIRS[0]


def step(place: Place) -> Step:
    """The step for a machine."""
    return Step(
        "precision",
        "float16, synchronized batch norms and memory",
        "float16 with scaled gradients, and synchronized batch norms in one process, against plain modules in float64 "
        "on the CPU. Then a training step of each form beside its baseline: few passes store two hidden maps instead "
        "of seven (localvit.save_memory), and the Triton kernels, the default there, store three.",
        COLUMNS,
        0.1,
        (
            Item("float16", partial(_float16, place)),
            Item("synchronized batch norms", partial(_synchronized, place)),
            Item("memory, bf16-mixed", partial(_forms_of_training, place)),
            Item("float16 with a gradient scaler", partial(_scaled, place)),
        ),
    )


def _float16(place: Place) -> list[Row]:
    rows = in_precision(Subject.of(TWIN, _size(place)), "float16", place)
    return [{"what": row["model"], **row} for row in rows]


def _scaled(place: Place) -> list[Row]:
    rows = train_on_noise(place, {"hardware.precision": "16-mixed", "training.epochs": 2, "training.warmup_epochs": 1})
    return [{"what": "recipe of CIFAR-10, trained on noise", **row, "form": f"{row['epochs']} epochs"} for row in rows]


def _synchronized(place: Place) -> list[Row]:
    subject = Subject.of(TWIN, _size(place))
    rows: list[Row] = []
    bound = exact(subject.model, place)
    changes: dict[str, Callable[[nn.Module], nn.Module]] = {"in order": nn.Identity(), "few passes": save_memory}
    with _one_process(place):
        for form, change in changes.items():
            model = nn.SyncBatchNorm.convert_sync_batchnorm(change(copy.deepcopy(subject.model)))
            found = train(model, subject.images_BCHW, "float64", place.device)
            off = [
                distance(one, other)
                for one, other in (
                    (found.outputs, subject.trained.outputs),
                    (found.gradients, subject.trained.gradients),
                )
            ]
            fault = "" if max(off) <= bound else f"synchronized, {form}: off by {max(off):.2g}, more than {bound:g}"
            row = {"what": "synchronized batch norms", "form": form, "precision": "float64", "fault": fault}
            rows.append(row | dict(zip(("outputs", "gradients"), off, strict=True)))
    return rows


@contextmanager
def _one_process(place: Place) -> Iterator[None]:
    """A process group of this process alone. Synchronized norms refuse a CPU once there is a group."""
    if place.device == "cpu":
        yield
        return
    distributed.init_process_group("nccl", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def without_triton(name: str, size: Size) -> nn.Module:
    """A model that trains with PyTorch's operators alone."""
    return use_triton(create(name, size), enabled=False)


def _forms_of_training(place: Place) -> list[Row]:
    size = _size(place)
    side = 32 if place.quick else 224
    setting = Setting(
        "training", "bf16-mixed", batch_size=4 if place.quick else BATCH_SIZE, image_size=side, device=place.device
    )
    contestants = [
        Contestant(partial(create, BASELINES[TWIN], size), "baseline"),
        Contestant(partial(without_triton, TWIN, size), "in order"),
        Contestant(partial(create, TWIN, size), "few passes", {"save_memory": True}),
    ]
    if place.device == "cuda":  # what it trains with there by default
        contestants.append(Contestant(partial(create, TWIN, size), "Triton"))
    how: dict[str, Any] = {"rounds": 1, "seconds_a_turn": 0.01} if place.quick else {}
    found = measure(contestants, setting, **how)
    errors = [f"{one.name}: {one.error}" for one in found.measurements if one.error]
    if errors:
        raise RuntimeError("; ".join(errors))
    memories = [memory(contestant, setting, place) for contestant in contestants]
    rows = []
    for one, peak in zip(found.measurements, memories, strict=True):
        speed, against = one.images_per_second, ratio(one, found.baseline)
        rows.append(
            {
                "what": f"{TWIN}, a training step",
                "form": one.name,
                "precision": "bf16-mixed",
                "images/s": speed.median if speed else None,
                "ratio": against.median if against else None,
                "peak MiB": peak,
                "memory ratio": over(peak, memories[0]),
            }
        )
    return rows


def _size(place: Place) -> Size:
    return "tiny" if place.quick else "full"
