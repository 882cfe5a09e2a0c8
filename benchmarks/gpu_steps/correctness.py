"""Step 1: every model in every form against plain modules in float64 on the CPU, in outputs and gradients.

Tolerances are those of the tests:

- float64: 1e-9 (``test_norm_act.py``: a step is that of the plain modules); compiled 1e-6, because the compiler's
  gradient of a hard sigmoid has a sixth of single precision (ibid.).
- Lower precisions: the plain modules' outputs may be off by 1e-3 in float32 and by 0.05 in half precision
  (``test_paper_models.py``). Their gradients are the yardstick: the activations have kinks, and which side of one a
  number falls is a matter of rounding. Another form may be off by 1.25 times what the plain modules are off by
  (``test_norm_act.py``, in bfloat16), or by 1e-3 in float32.
- The Triton kernels by themselves have tests with bounds derived from their rounding (``test_triton_depthwise.py``),
  which run here on the GPU.

A distance is the norm of the difference divided by the norm of what is expected, over all logits or all gradients.
"""

import copy
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn
from twins import BASELINES

import localvit
from gpu_steps.arithmetic import Found, Precision, distance, infer, train
from gpu_steps.models import OTHERS, PAIRS, Place, Size, as_trained, create, image_size, with_baselines
from gpu_steps.running import Item, Row, Step
from localvit import LocalityFeedForward
from localvit.locality.kernels.gpu import depthwise
from localvit.system.machine import cores

ROOT = Path(__file__).parents[2]
KERNEL_TESTS = ("tests/locality/kernels/test_triton_depthwise.py", "tests/locality/kernels/test_triton_form.py")
A_FEW_TESTS = "rounding_alone and relu6 and float32 or step_is_the_same and se"
BATCH = 4
EXACT, COMPILED, YARDSTICK_FACTOR = 1e-9, 1e-6, 1.25
FLOOR: dict[Precision, float] = {"float32": 1e-3, "bfloat16": 0.0, "float16": 0.0}
PLAIN_OUTPUTS: dict[Precision, float] = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.05}
COLUMNS = ("model", "form", "precision", "outputs", "outputs at most", "gradients", "gradients at most")

Change = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True)
class Subject:
    """A model, its images, and what the plain modules compute in float64 on the CPU."""

    name: str
    model: nn.Module
    images_BCHW: Tensor
    trained: Found
    inferred: Found

    @classmethod
    def of(cls, name: str, size: Size) -> "Subject":
        """A model in its first state, the same each time."""
        model = as_trained(create(name, size))
        side = image_size(name, size)
        images_BCHW = torch.randn(BATCH, 3, side, side, generator=torch.Generator().manual_seed(1))
        return cls(
            name,
            model,
            images_BCHW,
            train(copy.deepcopy(model), images_BCHW, "float64", "cpu"),
            infer(copy.deepcopy(model), images_BCHW, "float64", "cpu"),
        )

    @property
    def networks(self) -> int:
        """Number of its locality feed-forward networks."""
        return sum(isinstance(module, LocalityFeedForward) for module in self.model.modules())


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
    items = [Item("Triton kernels: their tests", partial(kernel_tests, place))]
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


def kernel_tests(place: Place) -> list[Row]:
    """Run the kernels' own tests in a process, on the GPU if there is one; in a trial only a few of them."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        workers = "0" if place.quick else str(min(8, cores()))
        command = [sys.executable, "-m", "pytest", "-q", "-n", workers, "-p", "no:cacheprovider"]
        command += [f"--junitxml={report}", *KERNEL_TESTS, *(["-k", A_FEW_TESTS] if place.quick else [])]
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if not report.exists():
            raise RuntimeError(f"pytest wrote no report: {(ended.stdout + ended.stderr)[-500:]}")
        cases = list(ElementTree.parse(report).iter("testcase"))  # noqa: S314  # pytest wrote it
    failed = [case.get("name", "") for case in cases if case.find("failure") is not None or case.find("error")]
    passed = sum(not list(case) for case in cases)
    fault = f"{len(failed)} tests failed: {', '.join(failed)}" if failed else "" if passed else "no test passed"
    return [{"model": "Triton kernels", "form": f"{passed} tests passed, {len(failed)} failed", "fault": fault}]


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
    rows = [_row(subject.name, "in order", precision, (outputs, PLAIN_OUTPUTS[precision]), (gradients, None))]
    if not subject.networks:
        return rows
    changes: dict[str, Change] = {"few passes": localvit.save_memory, "Triton": localvit.use_triton}
    for form, change in changes.items():
        with mock.patch.object(depthwise, "norm_act_depthwise", wraps=depthwise.norm_act_depthwise) as kernel:
            found = train(change(copy.deepcopy(subject.model)), subject.images_BCHW, precision, place.device)
        allowed = [max(YARDSTICK_FACTOR * one, FLOOR[precision]) for one in (outputs, gradients)]
        off = _distances(found, subject.trained)
        row = _row(subject.name, form, precision, (off[0], allowed[0]), (off[1], allowed[1]))
        if form == "Triton" and kernel.call_count != subject.networks:
            row["fault"] = f"{subject.name}: the kernel ran {kernel.call_count} of {subject.networks} times"
        rows.append(row)
    return rows


def compiled_training(name: str, size: Size, place: Place) -> list[Row]:
    """A compiled training step, in the form that is the default there."""
    return [_compiled(Subject.of(name, size), "compiled", _as_it_is, place)]


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
    return [_row(name, "fused, compiled", "float64", (off, COMPILED), (None, None))]


def _compiled(subject: Subject, form: str, change: Change, place: Place) -> Row:
    model = change(copy.deepcopy(subject.model))
    model.compile(dynamic=False, fullgraph=True)
    found = train(model, subject.images_BCHW, "float64", place.device)
    outputs, gradients = _distances(found, subject.trained)
    return _row(subject.name, form, "float64", (outputs, COMPILED), (gradients, COMPILED))


def _exact(subject: Subject, form: str, change: Change, place: Place) -> Row:
    found = train(change(copy.deepcopy(subject.model)), subject.images_BCHW, "float64", place.device)
    outputs, gradients = _distances(found, subject.trained)
    return _row(subject.name, form, "float64", (outputs, EXACT), (gradients, EXACT))


def _fused(subject: Subject, place: Place) -> Row:
    fused = localvit.fuse(copy.deepcopy(subject.model).double())
    found = infer(fused, subject.images_BCHW, "float64", place.device)
    return _row(
        subject.name, "fused", "float64", (distance(found.outputs, subject.inferred.outputs), EXACT), (None, None)
    )


def _as_it_is(model: nn.Module) -> nn.Module:
    return model


def _distances(found: Found, expected: Found) -> tuple[float, float]:
    return distance(found.outputs, expected.outputs), distance(found.gradients, expected.gradients)


def _row(
    model: str,
    form: str,
    precision: Precision,
    outputs: tuple[float, float | None],
    gradients: tuple[float | None, float | None],
) -> Row:
    """A line of the table, with a fault for a distance that is larger than allowed, or not a number."""
    row: Row = {"model": model, "form": form, "precision": precision, "fault": ""}
    for what, (off, allowed) in {"outputs": outputs, "gradients": gradients}.items():
        row[what], row[f"{what} at most"] = off, allowed
        if off is not None and allowed is not None and not off <= allowed:
            row["fault"] = f"{model}, {form}, {precision}: {what} are off by {off:.2g}, more than {allowed:.2g}"
    return row
