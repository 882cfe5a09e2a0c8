"""The Triton kernels' own tests, on the GPU."""

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from gpu_steps.models import Place
from gpu_steps.running import Row
from localvit.system.machine import cores

_ROOT = Path(__file__).parents[2]
_TESTS = "tests/locality/kernels/test_triton_*.py"
_A_FEW = "rounding_alone and relu6 and float32 or step_is_the_same and se"
_PROCESSES = 8


def kernel_tests(place: Place) -> list[Row]:
    """Run the kernels' own tests in a process, on the GPU if there is one; in a trial only a few of them."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        workers = "0" if place.quick else str(min(_PROCESSES, cores()))
        command = [sys.executable, "-m", "pytest", "-q", "-n", workers, "-p", "no:cacheprovider"]
        command += [
            f"--junitxml={report}",
            *map(str, sorted(_ROOT.glob(_TESTS))),
            *(["-k", _A_FEW] if place.quick else []),
        ]
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        ended = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
        if not report.exists():
            raise RuntimeError(f"pytest wrote no report: {(ended.stdout + ended.stderr)[-500:]}")
        cases = list(ElementTree.parse(report).iter("testcase"))  # noqa: S314  # pytest wrote it
    failed = [
        case.get("name", "") for case in cases if case.find("failure") is not None or case.find("error") is not None
    ]
    passed = sum(not list(case) for case in cases)
    fault = f"{len(failed)} tests failed: {', '.join(failed)}" if failed else "" if passed else "no test passed"
    return [{"model": "Triton kernels", "form": f"{passed} tests passed, {len(failed)} failed", "fault": fault}]
