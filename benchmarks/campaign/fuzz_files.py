"""Damaged and hostile files of every kind through the functions and commands that read them.

    python benchmarks/campaign/fuzz_files.py --count 10000

A trial is one file, drawn from its number: weights, states of runs, records of studies and runs, recipes, benchmarks,
configurations with class names, Parquet, WebDataset and exported graphs. It is read through the public function for it.
Every 500th trial gives a file to a command, as a process. Files that call functions would leave a canary.
"""

import contextlib
import io
import multiprocessing
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from campaign import Campaign, arguments, randomness
from children import Child, Verdict, note, peak_memory, run_command
from damage import Random
from kinds_of_files import KINDS, Kind
from readers import Place
from sample_files import write_samples

from localvit.system.errors import LocalViTError

CLAIM = (
    "Any file gives its content or an error that names it, from the functions and commands that read it. No code in it "
    "runs, no traceback appears, and reading takes at most 1 GiB of memory and a minute of processor time"
)
MOST_MIB, MOST_SECONDS, MOST_SECONDS_OF_COMMAND = 1024, 60, 300

# Arguments of the commands that read a kind of file, {file} and its {folder}; none of them can train.
COMMANDS = {
    "safetensors": "predict --checkpoint {file} --top 1 {folder}",
    "PyTorch's pickles": "convert {file} {folder}/converted.safetensors",
    "study.json": "report {folder}",
    "recipe": "train {file} --data.source folder --data.root {folder}/nowhere --output {folder}/run",
    "question of a study": "study {file} --data.root {folder}/nowhere --dry-run",
    "config.json of the hub, with class names": "predict --checkpoint local-dir:{folder} --top 1 {folder}",
    "ONNX": "predict --checkpoint {file} --top 1 {folder}",
}


def drawn(trial: int, samples: Path, *, commands: bool = False) -> tuple[str, Kind, Random]:
    """The kind of file of a trial, and its random numbers from then on."""
    random = randomness(trial)
    kinds = {
        name: kind
        for name, kind in KINDS.items()
        if (not kind.needs or (samples / kind.needs).exists()) and (not commands or name in COMMANDS)
    }
    total = sum(kind.share for kind in kinds.values())
    name = str(random.choice(list(kinds), p=[kind.share / total for kind in kinds.values()]))
    return name, kinds[name], random


def prepare(samples: Path) -> Callable[[int], Verdict]:
    """The function of a trial in this process."""

    def tried(trial: int) -> Verdict:
        name, kind, random = drawn(trial, samples)
        with tempfile.TemporaryDirectory(prefix="localvit-files-") as folder:
            place = Place(samples, Path(folder), Path(folder, "canary"))
            (place.folder / "given").mkdir()
            damage, content = kind.damaged(place, random)
            path = place.folder / "given" / kind.file
            path.write_bytes(content)
            verdict = Verdict([name, f"{name}: {damage}"])
            del content
            with peak_memory() as peak:
                ending, problem = outcome(kind, path, place, random)
            verdict.kinds.append(ending)
            verdict.figures["MiB of memory for a file"] = peak.mib
            if problem is not None:
                verdict.failures.append(f"{name}, {damage}: {problem}")
            if peak.mib > MOST_MIB:
                verdict.failures.append(f"{name}, {damage}: takes {peak.mib:,.0f} MiB of memory")
            if place.canary.exists():
                verdict.failures.append(f"{name}, {damage}: code in the file has run")
            return verdict

    return tried


def outcome(kind: Kind, path: Path, place: Place, random: Random) -> tuple[str, str | None]:
    """Read a file: how that ended, and what is wrong with how it ended."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            kind.read(path, place, random)
    except SystemExit as ended:
        return "ends in an error of the command line", None if ended.code == 2 else f"exits with {ended.code}"
    except (LocalViTError, ValueError, OSError) as error:
        # The command line prints these, and nothing else, as one message.
        text = str(error)
        named = kind.nameless or path.name in text or path.stem in text or str(place.folder) in text
        return (
            "ends in an error that names the file",
            None if named else f"{type(error).__name__} without name: {text:.300}",
        )
    return "ends in its content", None


def check_command(trial: int, samples: Path) -> Verdict:
    """Give the file of a trial to a command, and check its exit status and what it says."""
    name, kind, random = drawn(trial, samples, commands=True)
    with tempfile.TemporaryDirectory(prefix="localvit-files-") as folder:
        place = Place(samples, Path(folder), Path(folder, "canary"))
        damage, content = kind.damaged(place, random)
        path = place.folder / kind.file
        path.write_bytes(content)
        words = [word.format(file=path, folder=folder) for word in COMMANDS[name].split()]
        ended = run_command(words, seconds=MOST_SECONDS_OF_COMMAND, folder=place.folder)
        verdict = Verdict([f"command {words[0]}", f"command, exit status {ended.status}"])
        verdict.figures["MiB of memory for a command"] = ended.mib
        problems = {
            f"exit status {ended.status}": ended.status not in (0, 1, 2),
            "traceback": "Traceback" in ended.err,
            "no message": ended.status != 0 and not ended.err.strip(),
            f"{ended.mib:,.0f} MiB": ended.mib > ordinary_mib() + MOST_MIB,
            "code in the file has run": place.canary.exists(),
        }
        what = f"{' '.join(words)}, {damage}"
        verdict.failures += [f"{what}: {problem}: {ended.err[-600:]}" for problem, wrong in problems.items() if wrong]
        return verdict


@cache
def ordinary_mib() -> float:
    """Memory of a command that reads nothing, in MiB."""
    return run_command(["predict", "--checkpoint", "nowhere", "nowhere"], seconds=MOST_SECONDS_OF_COMMAND).mib


def main() -> None:
    """Run the campaign."""
    parser = arguments(__doc__, "fuzz_files", 10_000)
    parser.add_argument("--every", type=int, default=500, help="every so many trials, a command reads a file")
    options = parser.parse_args()
    campaign = Campaign.open(options.output, CLAIM, "hostile files")
    with tempfile.TemporaryDirectory(prefix="localvit-samples-") as name:
        samples = Path(name)
        making = multiprocessing.get_context("fork").Process(target=write_samples, args=(samples,))
        making.start()
        making.join()
        with Child(partial(prepare, samples), MOST_SECONDS) as child:
            for trial in campaign.trials(options.count):
                note(campaign, child.verdict(trial))
                if (trial + 1) % options.every == 0:
                    note(campaign, check_command(trial, samples))
    campaign.end()


if __name__ == "__main__":
    main()
