"""How each kind of file is damaged, and read through the project's public functions."""

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from damage import BY_BYTES, Random
from hostile_pickles import hostile_pickle, in_archive, odd_tensors, packed_archive, with_damaged_pickle
from odd_values import odd_json, odd_safetensors, odd_yaml
from sample_files import RUN, small_model

from localvit.benchmark import BenchmarkResult
from localvit.commands import study as study_command
from localvit.commands import train as train_command
from localvit.commands.parser import config_from
from localvit.data.config import DataConfig
from localvit.data.source import BrokenImageError
from localvit.data.sources import open_parts
from localvit.data.sources.index import index_folder
from localvit.evaluation.model_card import run_of
from localvit.models.exported import load_exported
from localvit.models.weights.checkpoints import load_checkpoint
from localvit.models.weights.convert import convert
from localvit.models.weights.model_file import load_model
from localvit.studies.config import StudyConfig
from localvit.studies.record import StudyRecord, merge
from localvit.studies.reporting.inside import read_analysis
from localvit.studies.statistics.summary import summarize
from localvit.studies.study import report_studies
from localvit.system.shipped import shipped
from localvit.training import RunConfig, read_result, run
from localvit.training.checkpointing import AtomicCheckpointIO


class Place(NamedTuple):
    """Where a trial happens.

    Attributes:
        samples: folder of the sound files.
        folder: folder of the trial.
        canary: a file that appears if code has run.
    """

    samples: Path
    folder: Path
    canary: Path


def any_bytes(place: Place, name: str, random: Random) -> bytes:
    """A sample with damage to its bytes."""
    whole = (place.samples / name).read_bytes()
    kind = list(BY_BYTES)[int(random.integers(len(BY_BYTES)))]
    return BY_BYTES[kind](whole, whole[::-1] if random.random() < 0.5 else whole, random)


def damaged_safetensors(place: Place, random: Random) -> tuple[str, bytes]:
    """Weights of ours with a damaged header or damaged bytes."""
    if random.random() < 0.3:
        return "bytes", any_bytes(place, "model.safetensors", random)
    return "header", odd_safetensors((place.samples / "model.safetensors").read_bytes(), random)


def damaged_pickle(place: Place, random: Random) -> tuple[str, bytes]:
    """A checkpoint of PyTorch that is damaged, calls functions, holds odd tensors, or unpacks to much."""
    archive, canary = (place.samples / "model.pth").read_bytes(), str(place.canary)
    match int(random.integers(20)):
        case 0 | 1 | 2 | 3:
            return "bytes", any_bytes(place, ["model.pth", "legacy.pth", "bare.pth"][int(random.integers(3))], random)
        case 4 | 5 | 6 | 7:
            return "calls a function", hostile_pickle(canary, random)
        case 8 | 9 | 10 | 11:
            return "calls a function, in an archive", in_archive(archive, hostile_pickle(canary, random), random)
        case 12 if random.random() < 0.2:
            return "unpacks to gigabytes", packed_archive(archive, canary, random)
        case 13 | 14 | 15:
            file = io.BytesIO()
            with contextlib.suppress(Exception):  # some cannot be pickled in some versions
                torch.save({"model": odd_tensors(canary, random)}, file)
            return "odd tensors", file.getvalue()
        case 16:
            legacy = (place.samples / "legacy.pth").read_bytes()
            start = int(random.integers(len(legacy)))
            return "calls a function, after a true beginning", legacy[:start] + hostile_pickle(canary, random)
    return "damaged opcodes", with_damaged_pickle(archive, canary, random)


def read_weights(path: Path, place: Place, random: Random) -> None:
    """Read weights through one of the functions for them."""
    match int(random.integers(4)):
        case 0:
            load_checkpoint(small_model(), path)
        case 1:
            convert(path, place.folder / "converted.pth", model_name="localvit_tiny_patch16_224")
        case 2:
            model, description = load_model(path, name="localvit_tiny_se4_patch16_224")
            assert description.class_names is not None
            assert model is not None
        case _:
            load_model(path)


def read_state(path: Path, place: Place, random: Random) -> None:
    """Read the state of a run as Lightning does."""
    AtomicCheckpointIO().load_checkpoint(path)


def other_state(place: Place, random: Random) -> tuple[str, bytes]:
    """The state of a run with other values in it."""
    state = torch.load(place.samples / "stopped" / "last.ckpt", weights_only=True)
    for _ in range(int(random.integers(1, 3))):
        parent: Any = state
        while True:
            keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
            key = keys[int(random.integers(len(keys)))]
            deeper = isinstance(parent[key], dict | list) and len(parent[key])
            if not deeper or random.random() < 0.3:
                break
            parent = parent[key]
        odd: list[Any] = [None, -1, 10**9, "x", [], {}, torch.zeros(3), float("nan")]
        if random.random() < 0.4 and isinstance(parent, dict):
            del parent[key]
        else:
            parent[key] = odd[int(random.integers(len(odd)))]
    file = io.BytesIO()
    torch.save(state, file)
    return "other values", file.getvalue()


def resume(path: Path, place: Place, random: Random) -> None:
    """Resume a run from a state."""
    folder = place.folder / "run"
    shutil.copytree(place.samples / "stopped", folder)
    shutil.copy(path, folder / "last.ckpt")
    run(RUN, folder)


def damaged_json(sample: str) -> Callable[[Place, Random], tuple[str, bytes]]:
    """Damages a sample of JSON."""

    def damaged(place: Place, random: Random) -> tuple[str, bytes]:
        if random.random() < 0.2:
            return "bytes", any_bytes(place, sample, random)
        return "values", odd_json(_parsed(place.samples / sample), random).encode(errors="surrogatepass")

    return damaged


@cache
def _parsed(path: Path) -> Any:
    return json.loads(path.read_text())


def read_study(path: Path, place: Place, random: Random) -> None:
    """Read the record of a study, summarize it, and now and then report it."""
    record = StudyRecord.load(path.parent)
    for summary in map(summarize, merge([record])):
        assert summary.record.config == record.config
    for outcome in record.outcomes:
        assert outcome.status is not None
        assert outcome.correct_images() is None or outcome.correct is not None
        assert outcome.loss is None or outcome.loss is not None
    if random.random() < 0.05:
        from localvit.system.terminal import ERRORS

        report_studies([path.parent], place.folder / "report", console=ERRORS)


def read_result_of(path: Path, place: Place, random: Random) -> None:
    """Read the result of a run."""
    result = read_result(path.parent)
    assert result is not None
    assert result.accuracy is not None


def run_again(name: str) -> Callable[[Path, Place, Random], None]:
    """Starts a finished run again, with one of its files replaced."""

    def again(path: Path, place: Place, random: Random) -> None:
        folder = place.folder / "run"
        shutil.copytree(place.samples / "finished", folder)
        shutil.copy(path, folder / name)
        run(RUN, folder)

    return again


def damaged_yaml(kind: Any) -> Callable[[Place, Random], tuple[str, bytes]]:
    """Damages a shipped recipe or study."""

    def damaged(place: Place, random: Random) -> tuple[str, bytes]:
        files = list(shipped(kind).values())
        text = files[int(random.integers(len(files)))].read_text()
        if random.random() < 0.3:
            return "bytes", BY_BYTES[list(BY_BYTES)[int(random.integers(len(BY_BYTES)))]](
                text.encode(), files[0].read_bytes(), random
            )
        return "tags and structure", odd_yaml(text, str(place.canary), random).encode()

    return damaged


def read_recipe(path: Path, place: Place, random: Random) -> None:
    """Read a recipe as ``localvit train`` does."""
    parsed = train_command.parser().parse(train_command.arguments([str(path)]))
    config_from(parsed, RunConfig)


def read_questions(path: Path, place: Place, random: Random) -> None:
    """Read a study as ``localvit study`` does."""
    parsed = study_command.parser().parse(study_command.arguments([str(path)]))
    config_from(parsed, StudyConfig)


def read_run_of(path: Path, place: Place, random: Random) -> None:
    """Read the settings of the run beside a model."""
    shutil.copy(path, path.parent / "config.yaml")
    run_of(path.parent / "best.safetensors")


def read_benchmark(path: Path, place: Place, random: Random) -> None:
    """Read the results of a benchmark."""
    BenchmarkResult.from_json(path.read_text())


def read_hub(path: Path, place: Place, random: Random) -> None:
    """Load a model in a folder of the hub's form."""
    shutil.copy(place.samples / "hub" / "model.safetensors", path.parent / "model.safetensors")
    load_model(f"local-dir:{path.parent}")


def read_analysis_of(path: Path, place: Place, random: Random) -> None:
    """Read what an analysis found, for the report of a study."""
    (path.parent / "analysis").mkdir()
    shutil.copy(path, path.parent / "analysis" / "results.json")
    read_analysis(path.parent)


def read_images(source: Any) -> Callable[[Path, Place, Random], None]:
    """Opens a folder of shards for training, and reads its first images."""

    def read(path: Path, place: Place, random: Random) -> None:
        cache_folder = str(place.folder / "cache")
        config = DataConfig(source=source, root=str(path.parent), held_out=0.5, cache=cache_folder)
        train = open_parts(config, channels=3).train
        for index in range(min(8, len(train.labels_M))):
            with contextlib.suppress(BrokenImageError):
                train.read(index)

    return read


def read_index(path: Path, place: Place, random: Random) -> None:
    """A list of images in the cache that is damaged must be made anew."""
    images, kept = place.folder / "images", place.folder / "cache"
    (images / "cat").mkdir(parents=True)
    (images / "cat" / "photo.jpg").touch()
    for folder in (images / "cat", images):
        os.utime(folder, (1e9, 1e9))
    sound = index_folder(images, kept)
    (file,) = (kept / "indexes").iterdir()
    kind = list(BY_BYTES)[int(random.integers(len(BY_BYTES)))]
    file.write_bytes(BY_BYTES[kind](file.read_bytes(), path.read_bytes(), random))
    assert index_folder(images, kept).equals(sound)


def read_export(path: Path, place: Place, random: Random) -> None:
    """Load an exported model, and compute with it."""
    if path.suffix == ".xml" and not path.with_suffix(".bin").exists():
        shutil.copy(place.samples / "model.bin", path.with_suffix(".bin"))
    model, description = load_exported(path)
    model(torch.zeros(2, description.input.channels, *description.input.image_size))


def damaged_bytes(name: str) -> Callable[[Place, Random], tuple[str, bytes]]:
    """Damages the bytes of a sample."""
    return lambda place, random: ("bytes", any_bytes(place, name, random))
