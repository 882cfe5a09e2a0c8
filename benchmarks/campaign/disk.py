"""A disk that is full, read-only or gone during every kind of write, and the same command again once there is room.

python benchmarks/campaign/disk.py --count 200

One trial is one command that meets such a disk. A small file system is mounted for that, which takes root; without it,
a limit on the size of files stands in for a full disk, and none is read-only.
"""

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import small
import torch
import yaml
from campaign import Campaign, arguments, randomness
from commands import Command, warm_up
from PIL import Image
from safetensors.torch import load_file
from sameness import difference, files, unfinished
from small_disk import SmallDisk

CLAIM = (
    "A command whose disk is full, read-only or gone says so in one clear line and fails, leaves every file whole and "
    "no half of one, and finishes as if nothing had been once there is room."
)
MEBIBYTES = 96
_TRIALS = 200


@dataclass(frozen=True)
class Scenario:
    """A command that writes.

    Attributes:
        name: what it writes, as the log counts it.
        arguments: given its folder, the words after ``localvit``.
        needed: whether it cannot do without what it writes; an index, it can.
        needless: a folder that it does not fill again after someone removed it, because its record holds what counts.
    """

    name: str
    arguments: Callable[[Path], list[str]]
    needed: bool = True
    needless: str | None = None


def scenarios(folder: Path) -> list[Scenario]:
    """The commands, on images and weights that are written into ``folder``."""
    images, cache = folder / "images", folder / "cache"
    small.write_images(images)
    recipe = small.write(folder / "recipe.yaml", small.recipe(small.source_of(images, "folder", cache)))
    study, scale = small.write_study(folder)
    best = folder / "trained" / "best.safetensors"
    paper = folder / "paper.safetensors"

    def evaluate(source: small.Source, own_cache: bool) -> Callable[[Path], list[str]]:
        def words(at: Path) -> list[str]:
            data = small.source_of(images, source, at / "cache" if own_cache else cache)
            return small.evaluation(best, data, at / "evaluation")

        return words

    def analyzed(at: Path) -> list[str]:
        shown = ["--images", str(images / "folder" / "val"), "--count", "8", "--device", "cpu", "--threads", "1"]
        return ["analyze", str(best), *shown, "--measures", "token-similarity", "--output", str(at / "analysis")]

    small.save_paper_model(paper)
    return [
        Scenario("a run", lambda at: ["train", "--config", str(recipe), "--output", str(at / "run")]),
        Scenario("an evaluation", evaluate("folder", own_cache=False)),
        Scenario("an index of a folder", evaluate("folder", own_cache=True), needed=False),
        Scenario("converted shards", evaluate("parquet", own_cache=True)),
        Scenario("an exported model", lambda at: ["export", str(best), "--to", "onnx", "--output", str(at / "onnx")]),
        Scenario("a converted checkpoint", lambda at: ["convert", str(paper), str(at / "theirs.pth")]),
        Scenario("a model with its card", lambda at: ["push", str(best), f"local-dir:{at / 'card'}"]),
        Scenario("an analysis", analyzed),
        Scenario("a study", lambda at: small.training_of_study(study, scale, at), needless="runs"),
    ]


def is_whole(path: Path) -> bool:
    """Whether a file can be read to its end."""
    readers: dict[str, Callable[[Path], object]] = {
        ".ckpt": lambda path: torch.load(path, weights_only=True),
        ".pth": lambda path: torch.load(path, weights_only=True),
        ".safetensors": load_file,
        ".parquet": pq.read_table,
        ".json": lambda path: json.loads(path.read_text()),
        ".csv": pd.read_csv,
        ".yaml": lambda path: yaml.safe_load(path.read_text()),
        ".png": lambda path: Image.open(path).load(),
        ".html": lambda path: path.read_text().index("</html>"),
    }
    try:
        readers.get(path.suffix, Path.read_bytes)(path)
    except Exception:  # whatever a reader meets in half a file
        return False
    return True


def complaint(command: Command, status: int | None, scenario: Scenario) -> str | None:
    """What is wrong with the end of a command that met a bad disk; None if it failed as it should."""
    printed = command.printed
    lines = [line for line in printed.splitlines() if line.startswith(("localvit ", "error: "))]
    if status is None:
        return "it did not end"
    if "Traceback" in printed:
        return f"a traceback: {printed.strip()[-300:]}"
    if status == 0:
        return None if not scenario.needed else "it ended with status 0"
    study_told = "failed: " in printed and scenario.name == "a study"
    return None if len(lines) == 1 or study_told else f"{len(lines)} lines of error: {printed.strip()[-300:]}"


class Trial:
    """One command that meets a bad disk.

    Args:
        scenario: the command.
        at: its folder.
        whole: the folder of an undisturbed one.
        random: the random numbers of the trial.
    """

    def __init__(self, scenario: Scenario, at: Path, whole: Path, random: np.random.Generator) -> None:
        self.scenario, self.at, self.whole, self.random = scenario, at, whole, random
        self.log = whole.with_suffix(".trial.txt")
        self.largest_file: int | None = None
        self.outcome = "failed with a clear line"
        if random.random() < 0.5 and scenario.name != "a run":  # a finished run writes nothing
            shutil.copytree(whole, at, dirs_exist_ok=True)

    def bytes_needed(self) -> int:
        """Bytes of all that the command writes."""
        return sum((self.whole / name).stat().st_size for name in files(self.whole))

    def meet(self, spoil: Callable[[], None] | None = None) -> Iterator[str]:
        """Run the command on the bad disk; ``spoil`` makes it bad while it runs. Yields what is wrong."""
        with Command(self.scenario.arguments(self.at), self.log, largest_file=self.largest_file) as command:
            if spoil is not None:
                time.sleep(self.random.uniform(0, 1.5))
                spoil()
            status = command.end()
        if status == 0:
            if difference(self.at, self.whole) is None:
                self.outcome = "not affected"
                return
            self.outcome = "did without"
        if (wrong := complaint(command, status, self.scenario)) is not None and not (spoil and status == 0):
            yield wrong
        torn = [name for name in sorted(files(self.at)) if not name.startswith(".") and not is_whole(self.at / name)]
        left = [path for path in unfinished(self.at) if path.is_file()]
        if torn or left:
            yield f"{', '.join([*torn, *(path.name for path in left)][:3])} is torn or left over"

    def again(self, *, needless: str | None = None) -> Iterator[str]:
        """Run the command once there is room. Yields what is wrong; files in ``needless`` may be missing."""
        with Command(self.scenario.arguments(self.at), self.log) as command:
            status = command.end()
        if status != 0:
            yield f"with room, it ended with status {status}: {command.printed.strip()[-300:]}"
        elif (found := difference(self.at, self.whole, needless=needless)) is not None:
            yield f"with room, {found}"


def full(trial: Trial, disk: SmallDisk) -> Iterator[str]:
    """A disk with room for a part of what is written."""
    disk.fill(int(trial.random.uniform(0, 1.1) * trial.bytes_needed()))
    yield from trial.meet()
    disk.empty()
    yield from trial.again()


def read_only(trial: Trial, disk: SmallDisk) -> Iterator[str]:
    """A disk that cannot be written to."""
    disk.may_write("ro")
    yield from trial.meet()
    disk.may_write("rw")
    yield from trial.again()


def limited(trial: Trial, disk: SmallDisk | None) -> Iterator[str]:
    """A limit on the size of files, as a quota sets."""
    sizes = [(trial.whole / name).stat().st_size for name in files(trial.whole)]
    trial.largest_file = int(trial.random.uniform(8192, max(sizes) * 1.1 + 8192))
    yield from trial.meet()
    yield from trial.again()


def removed(trial: Trial, disk: SmallDisk | None) -> Iterator[str]:
    """A folder that someone removes while the command runs."""

    def remove() -> None:
        for path in trial.at.iterdir():
            shutil.rmtree(path, ignore_errors=True)

    yield from trial.meet(remove)
    yield from trial.again(needless=trial.scenario.needless)


WAYS: dict[str, Callable[[Trial, SmallDisk], Iterator[str]]] = {"full disk": full, "read-only disk": read_only}
WAYS_WITHOUT_MOUNTING: dict[str, Callable[[Trial, SmallDisk | None], Iterator[str]]] = {
    "limit on the size of files": limited,
    "folder removed": removed,
}


def may_mount(folder: Path) -> bool:
    """Whether this process may mount file systems; says so if not."""
    try:
        with SmallDisk(folder / "try", 1):
            return True
    except OSError as error:
        print(f"No file system can be mounted here, so none is full or read-only: {error}")
        return False


def main() -> None:
    """Try until the log holds as many trials as were asked for."""
    options = arguments(__doc__, "disk", _TRIALS).parse_args()
    campaign = Campaign.open(options.output, CLAIM, "commands")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        warm_up(folder / "server.txt")
        commands, mounting = scenarios(folder), may_mount(folder)
        ways = {**(WAYS if mounting else {}), **WAYS_WITHOUT_MOUNTING}
        for trial in campaign.trials(options.count):
            scenario = commands[trial // len(ways) % len(commands)]
            way = [*ways][trial % len(ways)]
            whole, place = folder / f"whole {scenario.name}", folder / f"trial-{trial}"
            at = place / "files"  # beside what fills the disk
            train_first(folder, commands[0])
            if not whole.exists():
                undisturbed(scenario, whole)
            with SmallDisk(place, MEBIBYTES) if mounting else contextlib.nullcontext() as disk:
                at.mkdir(parents=True)
                one = Trial(scenario, at, whole, randomness(trial))
                for what in ways[way](one, disk):  # type: ignore[arg-type]  # those without a disk need none
                    campaign.failed(f"{scenario.name}, {way}: {what}")
            campaign.saw(f"{way}: {scenario.name}")
            campaign.saw(f"outcome: {one.outcome}")
            shutil.rmtree(place)
    campaign.end()


def train_first(folder: Path, training: Scenario) -> None:
    """The weights that other commands start from."""
    whole = folder / f"whole {training.name}"
    if not whole.exists():
        undisturbed(training, whole)
        shutil.copytree(whole / "run", folder / "trained")


def undisturbed(scenario: Scenario, folder: Path) -> None:
    """Run a command with all the room there is."""
    folder.mkdir()
    with Command(scenario.arguments(folder), folder.with_suffix(".txt")) as command:
        if command.end() != 0:
            raise SystemExit(f"{scenario.name} fails undisturbed: {command.printed}")


if __name__ == "__main__":
    main()
