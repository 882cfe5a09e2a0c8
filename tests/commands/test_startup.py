"""Questions and typos are answered at once, from the package as it is installed."""

import resource
import subprocess
import sys

import pytest

SLOW = {"torch", "timm", "lightning", "datasets", "pandas", "torchvision"}
SECONDS = 0.7
COMMAND = f"""
import atexit, sys
atexit.register(lambda: print(sorted({SLOW} & set(sys.modules)), file=sys.stderr))
import localvit_command
sys.exit(localvit_command.main())
"""


@pytest.mark.parametrize(
    ("arguments", "status", "answer"),
    [
        (["--help"], 0, "localvit COMMAND --help"),
        ([], 0, "localvit COMMAND --help"),
        (["--version"], 0, "localvit 0."),
        (["tarin"], 2, "Did you mean train?"),
        (["train", "photos", "--training.epoch", "3"], 2, "Did you mean training.epochs?"),
        (["train", "digits", "--training.epochs", "many"], 2, "training.epochs"),
        (["train", "photo"], 2, "Did you mean photos?"),
        (["train"], 0, "photos"),
        (["study"], 0, "RQ1"),
        (["study", "rq1_depthwis"], 2, "Did you mean rq1_depthwise?"),
        (["study", "rq1_depthwise", "--seedz", "1"], 2, "Did you mean seeds?"),
        (["study", "--help"], 0, "--scale"),
        (["predict", "--chekpoint", "a"], 2, "Did you mean checkpoint?"),
        (["eval", "--data.rot", "a"], 2, "Did you mean data.root?"),
        (["bench", "--precisions", "fp32"], 2, "Did you mean precision?"),
        (["report", "--outptu", "a", "b"], 2, "Did you mean output?"),
        (["models", "--jsn"], 2, "Did you mean json?"),
        (["analyze", "--help"], 0, "--study"),
        (["analyze", "a", "--mesures", "b"], 2, "Did you mean measures?"),
        (["convert", "a"], 2, "target"),
    ],
)
def test_questions_and_typos_are_answered_without_loading_pytorch(
    arguments: list[str], status: int, answer: str
) -> None:
    """The bound is on processor time, which other work on the machine does not change much."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.run([sys.executable, "-c", COMMAND, *arguments], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert process.returncode == status, process.stderr
    assert answer in " ".join((process.stdout + process.stderr).split())
    assert process.stderr.splitlines()[-1] == "[]", "something slow was imported"
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < SECONDS


def test_importing_the_package_registers_its_models_and_hides_no_public_name() -> None:
    """A submodule that is imported first must not hide a function of the same name."""
    code = (
        "import importlib, pkgutil, sys\n"
        "import localvit, timm\n"
        "if not timm.is_model('localvit_tiny_patch16_224'):\n"
        "    print('no models')\n"
        "for name in ('localvit.training', 'localvit.benchmark', 'localvit.studies', 'localvit.data',"
        " 'localvit.analysis'):\n"
        "    package = importlib.import_module(name)\n"
        "    for module in pkgutil.walk_packages(package.__path__, name + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "    for public in sys.modules[name].__all__:\n"
        "        if type(getattr(sys.modules[name], public)) is type(sys):\n"
        "            print(name, public)\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout) == (0, ""), process.stderr
