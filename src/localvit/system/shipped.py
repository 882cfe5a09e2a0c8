"""Finds the recipes, studies and scales that come with the package."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Literal

from localvit.system.suggestions import did_you_mean

Kind = Literal["recipe", "study", "scale"]

_FOLDERS = {"recipe": "recipes", "study": "studies/questions", "scale": "studies/scales"}
_COMMANDS = {"recipe": "localvit train", "study": "localvit study"}


def shipped(kind: Kind) -> Mapping[str, Path]:
    """All shipped files of a kind, by name."""
    folder = Path(str(resources.files("localvit"))) / _FOLDERS[kind]
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find(given: str, kind: Kind) -> Path:
    """Find a file by its path, or a shipped file by its name.

    ``recipes/NAME.yaml`` and ``studies/NAME.yaml`` also mean the shipped file, unless such a path exists.

    Raises:
        ValueError: if there is no such file or name.
    """
    path, known = Path(given), shipped(kind)
    if given in known:
        return known[given]
    try:
        if path.is_file():
            return path
        problem = "is a folder" if path.is_dir() else "does not exist"
    except (OSError, ValueError) as error:  # the name is too long or contains a null byte
        raise ValueError(f"cannot open the {kind} {given!r:.200}: {error}") from error
    if path.parent.name in ("recipes", "studies") and path.suffix == ".yaml" and path.stem in known:
        return known[path.stem]
    hint = did_you_mean(path.stem, known) or f" `{_COMMANDS[kind]}` lists those that come with localvit."
    raise ValueError(f"the {kind} {given!r:.200} {problem}; give a YAML file or a name.{hint}")


def listing(kind: Kind) -> list[tuple[str, str]]:
    """Name and first comment line of each shipped file."""
    return [(name, _first_comment(path)) for name, path in shipped(kind).items()]


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip()
