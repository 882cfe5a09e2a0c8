"""Broken images of every kind through prediction, training and the index of a folder.

    python benchmarks/campaign/fuzz_images.py --count 10000

A trial is one image or oddity, drawn from its number, beside a sound image in a folder. The folder is predicted, listed
and read as training reads it. Every 1000th trial gives all files of the 1000 to ``localvit predict``, as a process. Two
things depend on timing: files that change while they are read, and how far two images are decoded at the same time.
"""

import functools
import json
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from broken_image import Made, make
from campaign import Campaign, arguments
from children import Child, Verdict, note, peak_memory, run_command
from PIL import Image
from sample_files import DESCRIPTION, SHOWN, small_model

from localvit.data.augmentation import training_transform
from localvit.data.config import AugmentationConfig, DataConfig
from localvit.data.dataset import ImageDataset
from localvit.data.order import Draw
from localvit.data.source import DataError
from localvit.data.sources.folder import open_folder
from localvit.data.sources.index import index_folder
from localvit.data.sources.request import Request
from localvit.evaluation.predict import predict
from localvit.models.weights.model_file import save_model
from localvit.system.machine import cores

CLAIM = (
    "Any file in a folder of images gives a row or an error that names the file, in prediction, training and the index "
    "of the folder. An image takes at most 1 GiB of memory and a minute of processor time, and the exit status is right"
)
MOST_MIB, MOST_SECONDS, MOST_SECONDS_OF_COMMAND = 1024, 60, 500
SOUND = "sound.png"
LIBTIFF = re.compile(r"[\w.]+: ")  # it writes to standard error by itself: the function, and what it met


def prepare() -> Callable[[int], Verdict]:
    """The function of a trial in this process."""
    network = small_model()
    sound = Image.fromarray(np.random.default_rng(0).integers(0, 256, (36, 40, 3), dtype=np.uint8))

    def tried(trial: int) -> Verdict:
        with tempfile.TemporaryDirectory(prefix="localvit-images-") as name:
            class_folder = Path(name, "train", "class")
            class_folder.mkdir(parents=True)
            made = make(trial, class_folder)
            sound.save(class_folder / SOUND)
            verdict = Verdict(list(made.kinds))
            with made.meanwhile:
                try:
                    check(made, network, Path(name), verdict)
                except DataError as error:  # a folder that vanished while it was listed
                    if made.steady or f"{class_folder}/photo" not in str(error):
                        raise
                    verdict.kinds.append("ends in an error that names the file")
            return verdict

    return tried


def check(made: Made, network: Any, folder: Path, verdict: Verdict) -> None:
    """Predict, list and read a folder, and note what does not show the claim."""
    with peak_memory() as predicting:
        rows = list(predict(network, DESCRIPTION, [folder / "train"], top=1, batch_size=8, workers=1, device="cpu"))
    predicted = {str(row.path): row.error for row in rows}
    source = open_folder(Request(DataConfig(root=str(folder), cache=str(folder / "cache")), "train", channels=3))
    with peak_memory() as reading:
        read = {source.name(index): error for index, error in enumerate(errors_of(source))}
    mib = max(predicting.mib, reading.mib)
    verdict.figures["MiB of memory for an image"] = mib
    verdict.kinds.append("ends in a row" if not any(predicted.values()) else "ends in an error that names the file")
    for path in (folder / "train", folder / "train" / "class"):
        os.utime(path, (time.time() - 60,) * 2)  # the index keeps the list of a folder that rests
    table, again = (index_folder(folder / "train", folder / "cache") for _ in range(2))
    problems = {
        "another list from the cache": made.steady and not table.equals(again),
        "sound image without a row": predicted.get(str(folder / "train" / "class" / SOUND), "") is not None,
        "wrong number of rows": made.steady and len(rows) != made.predicted + 1,
        "wrong number of images to train on": made.steady and len(read) != made.listed + 1,
        "error without a reason": any(error is not None and not error.strip() for error in predicted.values()),
        "error that is not of the image": any("cannot be prepared" in (error or "") for error in predicted.values()),
        "another image's name in an error": any(
            error and not error.startswith(f"{path}: ") for path, error in read.items()
        ),
        "no row for a sound image": made.sound and (any(predicted.values()) or any(read.values())),
        "prediction and training disagree": made.steady
        and any(bool(error) != bool(read[path]) for path, error in predicted.items() if path in read),
        f"{mib:,.0f} MiB of memory": mib > MOST_MIB,
        "memory that is not there": any("more memory than is" in (error or "") for error in predicted.values()),
    }
    details = [*filter(None, predicted.values()), *filter(None, read.values())]
    verdict.failures += [f"{problem}: {', '.join(details):.600}" for problem, found in problems.items() if found]


def errors_of(source: Any) -> Iterator[str | None]:
    """For each image of a source the error of training's reading, or None."""
    dataset = ImageDataset(
        source,
        training_transform(SHOWN, AugmentationConfig()),
        empty_CHW=torch.zeros(3, *SHOWN.image_size, dtype=torch.uint8),
    )
    for index in range(len(source.labels_M)):
        sample = dataset[Draw(index, seed=7)]
        first = sample.broken[0] if sample.broken else None
        assert sample.place == index or first is not None
        yield first


def check_command(trials: range, checkpoint: Path) -> Verdict:
    """Give the files of many trials to ``localvit predict``, and check its rows, errors and exit status."""
    as_json = (trials.start // len(trials)) % 2 == 0
    with tempfile.TemporaryDirectory(prefix="localvit-images-") as name:
        rows = 0
        for trial in trials:
            folder = Path(name, f"{trial:06}")
            folder.mkdir()
            made = make(trial, folder)
            # Whoever changes a file does so while it is read; the files of all trials stay as they are here.
            rows += made.predicted
        Image.new("RGB", (32, 32), "red").save(Path(name, SOUND))
        shown = ["--json"] if as_json else []
        options = ["predict", "--checkpoint", str(checkpoint), "--top", "1", "--device", "cpu", *shown, name]
        ended = run_command(options, seconds=MOST_SECONDS_OF_COMMAND)
        verdict = Verdict([f"command, {'JSON' if as_json else 'text'}, over {len(trials)} trials"])
        found = rows_of(ended.out, as_json)
        failed = [line for line in ended.err.splitlines() if line.startswith(name)] if not as_json else found["errors"]
        last = (ended.err.splitlines() or [""])[-1]
        others = [line for line in ended.err.splitlines()[:-1] if not (line.startswith(name) and not as_json)]
        if any(map(LIBTIFF.match, others)):
            verdict.kinds.append("command, also with lines of libtiff on standard error")
            others = [line for line in others if not LIBTIFF.match(line)]
        problems = {
            f"exit status {ended.status}": ended.status != int(bool(failed)),
            f"{len(found['rows'])} rows and {len(failed)} errors of {rows + 1} images": len(found["rows"]) + len(failed)
            != rows + 1,
            "a name twice": max(Counter([*found["rows"], *found["errors"]]).values(), default=1) > 1,
            f"summary is {last!r}": not re.fullmatch(
                rf"{rows + 1:,} images, {len(failed):,} failed, [\d.,]+ images/s", last
            ),
            f"other lines: {others[:5]}": bool(others) or "Traceback" in ended.err,
            f"{ended.mib:,.0f} MiB": ended.mib > ordinary_mib(checkpoint) + MOST_MIB * cores(),
        }
        verdict.figures["MiB of memory for the command, of which two images at once may take 2,048"] = ended.mib
        verdict.failures += [f"command: {problem}" for problem, wrong in problems.items() if wrong]
        return verdict


def rows_of(out: str, as_json: bool) -> dict[str, list[str]]:
    """Paths of the rows and of the errors that the command printed."""
    if as_json:
        rows = [json.loads(line) for line in out.splitlines()]
        return {
            "rows": [row["path"] for row in rows if row.get("predictions")],
            "errors": [row["path"] for row in rows if row.get("error")],
        }
    lines = out.splitlines()
    assert all(re.fullmatch(r" *[\d.]+ %  (cat|dog)", line) for line in lines[1::2])
    return {"rows": lines[::2], "errors": []}


@functools.cache
def ordinary_mib(checkpoint: Path) -> float:
    """Memory of the command for a single ordinary image, in MiB."""
    with tempfile.TemporaryDirectory() as name:
        Image.new("RGB", (32, 32), "red").save(Path(name, SOUND))
        options = ["predict", "--checkpoint", str(checkpoint), "--top", "1", "--device", "cpu", name]
        return run_command(options, seconds=MOST_SECONDS_OF_COMMAND).mib


def main() -> None:
    """Run the campaign."""
    parser = arguments(__doc__, "fuzz_images", 10_000)
    parser.add_argument("--every", type=int, default=1000, help="so many trials together are given to the command")
    options = parser.parse_args()
    campaign = Campaign.open(options.output, CLAIM, "broken images")
    with tempfile.TemporaryDirectory() as name, Child(prepare, MOST_SECONDS) as child:
        checkpoint = Path(name, "model.safetensors")
        save_model(small_model(), DESCRIPTION, checkpoint)
        for trial in campaign.trials(options.count):
            verdicts = [child.verdict(trial)]
            if (trial + 1) % options.every == 0:
                verdicts.append(check_command(range(trial + 1 - options.every, trial + 1), checkpoint))
            for verdict in verdicts:
                note(campaign, verdict)
    campaign.end()


if __name__ == "__main__":
    main()
