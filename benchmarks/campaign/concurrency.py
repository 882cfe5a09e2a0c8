"""Ten commands at once in one folder and on one cache.

python benchmarks/campaign/concurrency.py --count 30

One trial starts the same command ten times, moments apart. At least one must do the work. The others do it too, wait
for it, or say that another process does it. In the end, the files must be those of a lone command.
"""

import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from campaign import Campaign, arguments, randomness
from commands import Command, warm_up
from disk import Scenario, is_whole, scenarios, train_first, undisturbed
from sameness import difference, files

CLAIM = (
    "Of ten commands at once in one folder and on one cache, one does the work, and the others do it too, wait for it "
    "or say that another process does it; in the end, the files are those of a lone command."
)
AT_ONCE = 10
TRIED = ("a run", "an evaluation", "an index of a folder", "converted shards", "a model with its card", "a study")
_SAID = ("another process",)
_MOST_SECONDS_APART = 1.0


def at_once(scenario: Scenario, folder: Path, random: np.random.Generator) -> list[tuple[int | None, str]]:
    """Start a command ten times. Returns the exit status of each, and what it printed."""
    commands = []
    for number in range(AT_ONCE):
        commands.append(Command(scenario.arguments(folder), folder.with_suffix(f".{number}.txt")))
        time.sleep(float(random.uniform(0, _MOST_SECONDS_APART / AT_ONCE)))
    return [(command.end(), command.printed) for command in commands]


def wrong(ended: list[tuple[int | None, str]]) -> list[str]:
    """What is wrong with the ends of ten commands."""
    failures = [] if any(status == 0 for status, _ in ended) else ["none did the work"]
    for status, printed in ended:
        if status is None:
            failures.append("one did not end")
        elif "Traceback" in printed:
            failures.append(f"a traceback: {printed.strip()[-300:]}")
        elif status != 0 and not any(said in " ".join(printed.split()) for said in _SAID):
            failures.append(f"one failed with status {status}: {printed.strip()[-300:]}")
    return failures


def report_of(study: Path) -> Scenario:
    """The report of a finished study, which is copied into the folder of the trial."""
    return Scenario("a report", lambda at: ["report", str(at / study.name)])


def main() -> None:
    """Try until the log holds as many trials as were asked for."""
    options = arguments(__doc__, "concurrency", 30).parse_args()
    campaign = Campaign.open(options.output, CLAIM, "times ten commands at once")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        warm_up(folder / "server.txt")
        everything = {scenario.name: scenario for scenario in scenarios(folder)}
        commands = [everything[name] for name in TRIED] + [report_of(folder / "small-tiny")]
        study = folder / f"whole {everything['a study'].name}"
        for trial in campaign.trials(options.count):
            scenario = commands[trial % len(commands)]
            train_first(folder, everything["a run"])
            whole, at = folder / f"whole {scenario.name}", folder / f"trial-{trial}"
            at.mkdir()
            if scenario.name == "a report":
                if not study.exists():
                    undisturbed(everything["a study"], study)
                whole = study
                shutil.copytree(study, at, dirs_exist_ok=True)
            elif not whole.exists():
                undisturbed(scenario, whole)
            ended = at_once(scenario, at, randomness(trial))
            failures = wrong(ended)
            torn = [name for name in sorted(files(at)) if not is_whole(at / name)]
            failures += [f"{torn[0]} is torn"] if torn else []
            failures += [found] if (found := difference(at, whole)) is not None else []
            for what in dict.fromkeys(failures):
                campaign.failed(f"{scenario.name}: {what}")
            campaign.saw(f"ten times {scenario.name}")
            for status, _ in ended:
                campaign.saw("commands that ended well" if status == 0 else "commands that said who does the work")
            shutil.rmtree(at)
    campaign.end()


if __name__ == "__main__":
    main()
