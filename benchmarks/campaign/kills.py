"""SIGKILL at random moments of real commands, and the same command again until it is done.

python benchmarks/campaign/kills.py --count 1000

One trial is one kill. Ten kills of one command are a chain: the command is started and killed over and over, and then
allowed to end. Whenever it has ended, its files must be those of a command that nobody disturbed, to the bit. Each kill
is drawn from its number, and a session that stops within a chain begins the folder of that chain anew.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import small
from campaign import Campaign, arguments, randomness
from commands import Command, warm_up
from sameness import below, difference, unfinished

CLAIM = (
    "A command that is killed at any moment, and started again until it is done, leaves the weights, figures and files "
    "of one that nobody disturbed, to the bit, and nothing else."
)
KILLS_A_CHAIN = 10
# How a kill is aimed: at any moment of the command, right after it has written a file, or while it writes one.
AIMS = ("at any moment", "after a file", "while writing")
_SHARE_WITHOUT_CHILDREN = 0.2
_SECONDS_BETWEEN_LOOKS = 0.001


@dataclass(frozen=True)
class Scenario:
    """A command that is killed.

    Attributes:
        name: of the command, as the log counts it.
        arguments: given the folder of a chain, the words after ``localvit``.
        begin: prepares the folder of a chain.
        watched: the folder below that of a chain at whose files kills are aimed.
        writes: about how many files it writes there.
        needs: name of the command whose undisturbed outcome it starts from.
        place: given the folder of a chain after a kill, where the kill fell.
    """

    name: str
    arguments: Callable[[Path], list[str]]
    place: Callable[[Path], str]
    begin: Callable[[Path], None] = field(default=lambda folder: folder.mkdir())
    watched: str = "."
    writes: int = 6
    needs: str | None = None


def while_training(folder: Path) -> str:
    """Where in a run a kill fell."""
    run = folder / "run"
    if (run / "result.json").exists():
        return "after the result"
    if (run / "logits.safetensors").exists():
        return "between the last files of a run"
    if not (run / "last.ckpt").exists():
        return "before the first checkpoint"
    metrics = run / "metrics.csv"
    epochs = len(metrics.read_text().splitlines()) - 1 if metrics.exists() else 0
    return "between checkpoints" if epochs < _EPOCHS else "while the last images were scored"


def while_studying(folder: Path) -> str:
    """Where in a study a kill fell."""
    names = [path.name for path in below(folder)]
    if "report.html" in names:
        return "after the report of a study"
    if "config.yaml" not in names:
        return "before the runs of a study"
    return "while a study trained" if names.count("result.json") < 4 else "before the report of a study"


def by_file(pattern: str, before: str, after: str) -> Callable[[Path], str]:
    """Where a kill fell: before a file was there, or after."""
    return lambda folder: after if any(path.match(pattern) for path in below(folder)) else before


_EPOCHS = 4


def scenarios(folder: Path) -> list[Scenario]:
    """The commands, on images that are written into ``folder``."""
    images, cache = folder / "images", folder / "cache"
    small.write_images(images)
    # With memory for no image, they are decoded in every epoch, by loading processes if there are any.
    recipes = {
        "folder": small.recipe(small.source_of(images, "folder", cache) | {"memory_gib": 0}, workers=1),
        "parquet": small.recipe(small.source_of(images, "parquet", cache)),
        "webdataset": small.recipe(small.source_of(images, "webdataset", cache) | {"memory_gib": 0}, minutes=3e-3),
    }
    files = {kind: str(small.write(folder / f"{kind}.yaml", values)) for kind, values in recipes.items()}
    study, scale = small.write_study(folder)

    def train(kind: str) -> Callable[[Path], list[str]]:
        return lambda chain: ["train", "--config", files[kind], "--output", str(chain / "run")]

    def evaluate(source: small.Source, own_cache: bool) -> Callable[[Path], list[str]]:
        def words(chain: Path) -> list[str]:
            data = small.source_of(images, source, chain / "cache" if own_cache else cache)
            return small.evaluation(checkpoint, data, chain / "evaluation")

        return words

    trained, studying = "training on a folder", "a study"
    checkpoint = folder / "whole" / trained / "run" / "best.safetensors"
    evaluated = by_file("metrics.json", "before the figures of an evaluation", "after the figures of an evaluation")
    table = by_file("*.arrow", "before shards were converted", "after shards were converted")
    cheap = [
        Scenario(trained, train("folder"), while_training),
        Scenario("evaluation", evaluate("folder", own_cache=False), evaluated, needs=trained),
        Scenario("training on Parquet files", train("parquet"), while_training),
        Scenario(
            "index of a folder",
            evaluate("folder", own_cache=True),
            by_file("indexes/*.parquet", "before an index", "after an index"),
            watched="cache",
            writes=1,
            needs=trained,
        ),
        Scenario("training on WebDataset shards", train("webdataset"), while_training),
        Scenario(
            "conversion of shards",
            evaluate("webdataset", own_cache=True),
            table,
            watched="cache",
            writes=3,
            needs=trained,
        ),
        Scenario(
            "report of a study",
            lambda chain: ["report", str(chain / "small-tiny")],
            by_file("report.html", "before the report of a study", "after the report of a study"),
            begin=lambda chain: _without_report(folder / "whole" / studying, chain),
            needs=studying,
        ),
    ]
    # A study starts a server of its own, which takes longer than all the others do.
    study_itself = Scenario(studying, lambda chain: small.training_of_study(study, scale, chain), while_studying)
    return [*cheap, *cheap, study_itself]


def _without_report(study: Path, folder: Path) -> None:
    shutil.copytree(study, folder)
    for path in [*folder.glob("*/report.*"), *folder.glob("*/results.*")]:
        path.unlink()


class Chain:
    """Kills of one command in one folder, which is begun anew when the command has ended.

    Args:
        scenario: the command.
        folder: of the chain, which does not exist yet.
        whole: the same of a command that nobody disturbed.
        seconds: that the undisturbed command took.
    """

    def __init__(self, scenario: Scenario, folder: Path, whole: Path, seconds: float) -> None:
        self.scenario, self.folder, self.whole, self.seconds = scenario, folder, whole, seconds
        self.failures: list[str] = []
        self.scenario.begin(folder)

    def kill(self, random: np.random.Generator) -> tuple[str, ...]:
        """Start the command until it can be killed once. Returns what kinds of kill it was."""
        while True:
            aim, everything = str(random.choice(AIMS)), random.random() >= _SHARE_WITHOUT_CHILDREN
            with Command(self.scenario.arguments(self.folder), self.folder.with_suffix(".txt")) as command:
                self._wait(command, aim, random)
                if command.running:
                    command.kill(children=everything)
                    torn = unfinished(self.folder)
                    place = f"while {_named(torn[0])} was written" if torn else self.scenario.place(self.folder)
                    processes = "process and children" if everything else "process alone, children left to end"
                    return (f"killed: {self.scenario.name}", f"fell: {place}", f"killed: {processes}")
            self._compare(command)

    def end(self) -> list[str]:
        """Let the command end, and compare. Returns what was wrong in the chain."""
        with Command(self.scenario.arguments(self.folder), self.folder.with_suffix(".txt")) as command:
            command.end()
        self._compare(command)
        shutil.rmtree(self.folder)
        return self.failures

    def _wait(self, command: Command, aim: str, random: np.random.Generator) -> None:
        """Wait until it is time to kill, or the command has ended."""
        end = time.monotonic() + self.seconds * 1.2
        watched, skipped = self.folder / self.scenario.watched, int(random.integers(self.scenario.writes))
        if aim == "at any moment":
            end = command.started + random.uniform(0, self.seconds)
        elif aim == "after a file":
            before = _written(watched)
            while command.running and len(_written(watched) - before) <= skipped and time.monotonic() < end:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            end = min(end, time.monotonic() + random.uniform(0, 0.1))
        else:
            left, seen = {*unfinished(watched)}, set[tuple[Path, int]]()
            while command.running and time.monotonic() < end:
                seen |= {(path, _inode(path)) for path in unfinished(watched) if path not in left}
                if len(seen) > skipped:
                    return
                time.sleep(_SECONDS_BETWEEN_LOOKS / 4)
        while command.running and time.monotonic() < end:
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _compare(self, command: Command) -> None:
        status, name = command.end(), self.scenario.name
        if status != 0 or "Traceback" in command.printed:
            ended = "did not end" if status is None else f"ended with status {status}"
            self.failures.append(f"{name} {ended}: {command.printed.strip()[-500:]}")
        elif (found := difference(self.folder, self.whole)) is not None:
            self.failures.append(f"{name}: {found}")
        shutil.rmtree(self.folder)
        self.scenario.begin(self.folder)


def _named(path: Path) -> str:
    """The name of the file that a temporary file was to replace; the names of indexes are hashes."""
    if path.name.endswith(".incomplete"):
        return "a converted shard"
    return "an index" if path.parent.name == "indexes" else path.name.removeprefix(".").rsplit(".", 2)[0]


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _written(folder: Path) -> set[tuple[str, int]]:
    """The files below a folder, as they are now."""
    return {(str(path), _inode(path)) for path in below(folder)}


def whole_run(scenario: Scenario, folder: Path) -> float:
    """Run a command that nobody disturbs, in ``folder``. Returns the seconds that it took."""
    scenario.begin(folder)
    with Command(scenario.arguments(folder), folder.with_suffix(".txt")) as command:
        if command.end() != 0:
            raise SystemExit(f"{scenario.name} fails undisturbed: {command.printed}")
        return time.monotonic() - command.started


def main() -> None:
    """Kill until the log holds as many kills as were asked for."""
    parser = arguments(__doc__, "kills", 1000)
    options = parser.parse_args()
    campaign = Campaign.open(options.output, CLAIM, "kills")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "whole").mkdir()
        warm_up(folder / "server.txt")
        commands, seconds = scenarios(folder), dict[str, float]()
        chain: Chain | None = None
        for trial in campaign.trials(options.count):
            number, place = divmod(trial, KILLS_A_CHAIN)
            scenario = commands[number % len(commands)]
            for needed in [*(one for one in commands if one.name == scenario.needs), scenario]:
                if needed.name not in seconds:
                    seconds[needed.name] = whole_run(needed, folder / "whole" / needed.name)
            if chain is None:
                whole = folder / "whole" / scenario.name
                chain = Chain(scenario, folder / f"chain-{number}", whole, seconds[scenario.name])
            for kind in chain.kill(randomness(trial)):
                campaign.saw(kind)
            if place == KILLS_A_CHAIN - 1 or trial == options.count - 1:
                for what in chain.end():
                    campaign.failed(what)
                campaign.saw("chains compared with an undisturbed command")
                chain = None
    campaign.end()


if __name__ == "__main__":
    main()
