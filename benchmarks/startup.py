"""Seconds from the command to the first training step, for a folder of a million images with a cached index.

    python benchmarks/startup.py --output benchmarks/results/startup.json

The images are hard links to one photo, in a thousand classes; creating and deleting them takes minutes. The first start
without an index is timed once as well. A small model keeps the step short. The clock stops when the first checkpoint
appears, which is written after the first step.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from localvit.benchmark import provenance
from localvit.system.files import write_text

CLASSES = 1000
MODEL = ["--model.name", "deit_tiny_patch16_224", "--model.arguments", '{"embed_dim": 24, "depth": 1, "num_heads": 2}']
RUN = ["--training.batch_size", "32", "--training.checkpoint_minutes", "0.000001", "--training.ema_decay", "0"]


def make_images(folder: Path, count: int) -> None:
    """Create ``count`` links to one photo as training images, and one held-out image per class."""
    photograph = folder / "photograph.jpg"
    pixels_HWC = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels_HWC).resize((500, 375)).save(photograph)
    for number in track(range(CLASSES), "Making images", console=Console(stderr=True)):
        for part, images in (("train", count // CLASSES), ("val", 1)):
            place = folder / "images" / part / f"class{number:04}"
            place.mkdir(parents=True)
            for index in range(images):
                # File systems limit the number of links to a file.
                if index % 10_000 == 0 and part == "train" and number % 10 == 0:
                    photograph = folder / f"photograph{number}.jpg"
                    photograph.write_bytes((folder / "photograph.jpg").read_bytes())
                os.link(photograph, place / f"{index}.jpg")


def seconds_to_first_step(folder: Path, turn: int) -> float:
    """Start the command, wait for its first checkpoint, and kill it."""
    output = folder / f"run{turn}"
    options = ["--data.root", str(folder / "images"), "--data.cache", str(folder / "cache"), "--output", str(output)]
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "localvit", "train", *options, *MODEL, *RUN])
    while not (output / "last.ckpt").exists():
        if process.poll() is not None:
            raise SystemExit("the run ended before its first step")
        time.sleep(0.005)
    seconds = time.perf_counter() - start
    process.send_signal(signal.SIGKILL)
    process.wait()
    return seconds


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder, options.images)
        time.sleep(3)  # folders that have just changed are not indexed
        first, *cached = (seconds_to_first_step(folder, turn) for turn in range(options.turns + 1))
    figures = {
        "images": options.images,
        "seconds_without_index": round(first, 2),
        "seconds_with_index": round(statistics.median(cached), 2),
        "turns": [round(seconds, 2) for seconds in cached],
        "record": provenance(),
    }
    Console().print_json(data=figures)
    if options.output:
        write_text(options.output, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
