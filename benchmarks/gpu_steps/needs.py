"""Which packages of the project a machine lacks, and how to bring them. Imports only the standard library."""

import importlib.util
import platform
import shlex
import tomllib
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
# No step imports these dependencies of the project; the test of the script runs without them.
UNUSED = ("datasets", "plotly")
FOR_DATA = ("datasets",)  # what reads the Parquet files of CIFAR-10
TESTS = ("pytest", "pytest-xdist")
# Their own dependencies, which nothing else here brings along.
BRINGS = {
    "jsonargparse": ("docstring-parser", "typeshed-client"),
    "datasets": ("dill", "multiprocess", "xxhash"),
}


def requirements(*, data: bool) -> dict[str, str]:
    """The requirements of all steps, such as ``timm>=1.0.21``, by name of the package.

    Args:
        data: whether CIFAR-10 is read from its files.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    unused = set(UNUSED) - set(FOR_DATA if data else ())
    needed = {_name(line): line for line in project["dependencies"] if _name(line) not in unused}
    needed |= {_name(line): line for line in project["optional-dependencies"]["dev"] if _name(line) in TESTS}
    needed["triton"] = "triton"
    for name, brought in BRINGS.items():
        if name in needed:
            needed |= {one: one for one in brought}
    return needed


def missing(needed: Mapping[str, str]) -> list[str]:
    """The requirements whose package is not installed. Versions are not compared: an older one may do."""
    return [requirement for name, requirement in needed.items() if not _installed(name)]


def in_words(lacking: Iterable[str]) -> str:
    """What is missing, and the commands that install it: with a package index, and by carrying wheels."""
    given = shlex.join(lacking)
    python = ".".join(platform.python_version_tuple()[:2])
    return (
        f"These packages are missing here: {given}\n"
        f"  pip install {given}\n"
        "Without a package index, download their wheels elsewhere and bring the folder here:\n"
        f"  pip download --no-deps --only-binary=:all: --python-version {python} --platform manylinux_2_28_x86_64 "
        f"--platform manylinux2014_x86_64 --dest wheels {given}\n"
        "  pip install --no-index --no-deps --target site wheels/*.whl && export PYTHONPATH=site"
    )


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return importlib.util.find_spec(name.replace("-", "_")) is not None
    return True


def _name(requirement: str) -> str:
    """The package of a requirement such as ``jsonargparse[signatures]>=4.53``."""
    return requirement.partition(">")[0].partition("[")[0].strip()
