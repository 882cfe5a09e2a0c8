"""Step 1: every model in every form against plain modules in float64 on the CPU, in outputs and gradients.

Tolerances are those of the tests:

- float64: 1e-9 (``test_norm_act.py``: a step is that of the plain modules); compiled 1e-6, because the compiler's
  gradient of a hard sigmoid has a sixth of single precision (ibid.). On a GPU 1e-6 for every model with such
  activations, because PyTorch's kernels have one there, too (``hard_activations.py``, which measures it).
- Lower precisions: the plain modules' outputs may be off by 1e-3 in float32 and by 0.05 in half precision
  (``test_paper_models.py``). Their gradients are the yardstick: the activations have kinks, and which side of one a
  number falls is a matter of rounding. Another form may be off by 1.25 times what the plain modules are off by
  (``test_norm_act.py``, in bfloat16), or by 1e-3 in float32.
- The Triton kernels by themselves have tests with bounds derived from their rounding (``test_triton_depthwise.py``),
  which run here on the GPU.

A distance is the norm of the difference divided by the norm of what is expected, over all logits or all gradients.
"""

import copy
from collections.abc import Callable
from functools import partial
from unittest import mock

from torch import nn
from twins import BASELINES

import localvit
from gpu_steps.arithmetic import Found, Precision, compared, distance, infer, train
from gpu_steps.hard_activations import SINGLE, exact, float64_of_pytorch
from gpu_steps.kernel_tests import kernel_tests
from gpu_steps.models import OTHERS, PAIRS, Place, Size, with_baselines
from gpu_steps.running import Item, Row, Step
from gpu_steps.subject import Subject
from localvit.locality.kernels.forms import set_form
from localvit.locality.kernels.gpu import depthwise
from localvit.locality.kernels.gpu.form import triton_form

COMPILED, YARDSTICK_FACTOR = SINGLE, 1.25
FLOOR: dict[Precision, float] = {"float32": 1e-3, "bfloat16": 0.0, "float16": 0.0}
PLAIN_OUTPUTS: dict[Precision, float] = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.05}
COLUMNS = ("model", "form", "precision", "outputs", "outputs at most", "gradients", "gradients at most")

Change = Callable[[nn.Module], nn.Module]


def step(place: Place) -> Step:
    """The step for a machine."""
    return Step(
        "correctness",
        "Correctness",
        "Each form of a model against its plain modules in float64 on the CPU: the distance of outputs and gradients, "
        "relative to their norm. Outputs of fused models are those of inference.",
        COLUMNS,
        0.38,
        tuple(_items(place)),
    )


def _items(place: Place) -> list[Item]:
    """What runs as it stands, of every model; then what has to be compiled first, of models with few layers."""
    size: Size = "tiny" if place.quick else "full"
    few: Size = "tiny" if place.quick else "few layers"
    first, rest = with_baselines(PAIRS[:1] if place.quick else PAIRS), with_baselines(() if place.quick else OTHERS)
    rest = [name for name in rest if name not in first]
    items = [
        Item("Triton kernels: their tests", partial(kernel_tests, place)),
        Item("PyTorch's hard-swish in float64", partial(float64_of_pytorch, place)),
    ]
    items += [Item(f"{name}: forms", partial(forms, name, size, place)) for name in first + rest]
    for names in (first, rest):
        twins = [name for name in names if name in BASELINES]
        items += [Item(f"{name}: compiled training", partial(compiled_training, name, few, place)) for name in names]
        items += [Item(f"{name}: compiled inference", partial(compiled_inference, name, few, place)) for name in twins]
        if place.device == "cuda":  # on a CPU few passes are what compiled training does by default
            items += [
                Item(f"{name}: compiled few passes", partial(compiled_few_passes, name, few, place)) for name in twins
            ]
    return items


def forms(name: str, size: Size, place: Place) -> list[Row]:
    """All forms that are not compiled, in three precisions."""
    subject = Subject.of(name, size)
    rows = [_exact(subject, "in order", _as_it_is, place)]
    if subject.networks:
        rows.append(_exact(subject, "few passes", localvit.save_memory, place))
        rows.append(_fused(subject, place))
    for precision in ("float32", "bfloat16"):
        rows += in_precision(subject, precision, place)
    return rows


def in_precision(subject: Subject, precision: Precision, place: Place) -> list[Row]:
    """The plain modules, and the other forms by their yardstick, in less than double precision."""
    plain = train(copy.deepcopy(subject.model), subject.images_BCHW, precision, place.device)
    outputs, gradients = _distances(plain, subject.trained)
    rows = [compared(subject.name, "in order", precision, (outputs, PLAIN_OUTPUTS[precision]), (gradients, None))]
    if not subject.networks:
        return rows
    changes: dict[str, Change] = {"few passes": localvit.save_memory, "Triton": partial(use_kernels, place=place)}
    for form, change in changes.items():
        with mock.patch.object(depthwise, "norm_act_depthwise", wraps=depthwise.norm_act_depthwise) as kernel:
            found = train(change(copy.deepcopy(subject.model)), subject.images_BCHW, precision, place.device)
        allowed = [max(YARDSTICK_FACTOR * one, FLOOR[precision]) for one in (outputs, gradients)]
        off = _distances(found, subject.trained)
        row = compared(subject.name, form, precision, (off[0], allowed[0]), (off[1], allowed[1]))
        if form == "Triton" and kernel.call_count != subject.networks:
            row["fault"] = f"{subject.name}: the kernel ran {kernel.call_count} of {subject.networks} times"
        rows.append(row)
    return rows


def use_kernels(model: nn.Module, place: Place) -> nn.Module:
    """The model with the Triton kernels: the default on GPUs; elsewhere their interpreter runs."""
    return localvit.use_triton(model) if place.device == "cuda" else set_form(model, triton_form)


def compiled_training(name: str, size: Size, place: Place) -> list[Row]:
    """A compiled training step, in the form that is the default there."""
    return [_compiled(Subject.of(name, size), "compiled", localvit.use_triton, place)]


def compiled_few_passes(name: str, size: Size, place: Place) -> list[Row]:
    """A compiled training step that saves memory."""
    return [_compiled(Subject.of(name, size), "few passes, compiled", localvit.save_memory, place)]


def compiled_inference(name: str, size: Size, place: Place) -> list[Row]:
    """A fused and compiled model."""
    subject = Subject.of(name, size)
    model = localvit.fuse(subject.model.double())
    model.compile(dynamic=False, fullgraph=True)
    found = infer(model, subject.images_BCHW, "float64", place.device)
    off = distance(found.outputs, subject.inferred.outputs)
    rows = [compared(name, "fused, compiled", "float64", (off, COMPILED), (None, None))]
    if place.device == "cuda":
        rows += [fused_kernels(subject, place, compiled=compiled) for compiled in (False, True)]
    return rows


def fused_kernels(subject: Subject, place: Place, *, compiled: bool) -> Row:
    """A fused model with the Triton kernels, which take no float64."""
    model = localvit.fuse(subject.model.float())
    if compiled:
        model.compile(dynamic=False, fullgraph=True)
    with mock.patch.object(depthwise, "launch", wraps=depthwise.launch) as launch:
        found = infer(model, subject.images_BCHW, "float32", place.device)
    off = distance(found.outputs, subject.inferred.outputs)
    form = "fused, Triton, compiled" if compiled else "fused, Triton"
    row = compared(subject.name, form, "float32", (off, PLAIN_OUTPUTS["float32"]), (None, None))
    return row if launch.called else {**row, "fault": f"{subject.name}: the kernel did not run"}


def _compiled(subject: Subject, form: str, change: Change, place: Place) -> Row:
    model = change(copy.deepcopy(subject.model))
    model.compile(dynamic=False, fullgraph=True)
    found = train(model, subject.images_BCHW, "float64", place.device)
    outputs, gradients = _distances(found, subject.trained)
    return compared(subject.name, form, "float64", (outputs, COMPILED), (gradients, COMPILED))


def _exact(subject: Subject, form: str, change: Change, place: Place) -> Row:
    found = train(change(copy.deepcopy(subject.model)), subject.images_BCHW, "float64", place.device)
    (outputs, gradients), bound = _distances(found, subject.trained), exact(subject.model, place)
    return compared(subject.name, form, "float64", (outputs, bound), (gradients, bound))


def _fused(subject: Subject, place: Place) -> Row:
    fused = localvit.fuse(copy.deepcopy(subject.model).double())
    found = infer(fused, subject.images_BCHW, "float64", place.device)
    off = distance(found.outputs, subject.inferred.outputs)
    return compared(subject.name, "fused", "float64", (off, exact(subject.model, place)), (None, None))


def _as_it_is(model: nn.Module) -> nn.Module:
    return model


def _distances(found: Found, expected: Found) -> tuple[float, float]:
    return distance(found.outputs, expected.outputs), distance(found.gradients, expected.gradients)
