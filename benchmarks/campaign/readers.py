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
from hostile import (
    hostile_pickle,
    in_archive,
    odd_json,
    odd_safetensors,
    odd_tensors,
    odd_yaml,
    packed_archive,
    with_damaged_pickle,
)
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


def _safetensors(place: Place, random: Random) -> tuple[str, bytes]:
    if random.random() < 0.3:
        return "bytes", any_bytes(place, "model.safetensors", random)
    return "header", odd_safetensors((place.samples / "model.safetensors").read_bytes(), random)


def _pickle(place: Place, random: Random) -> tuple[str, bytes]:
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


def _read_weights(path: Path, place: Place, random: Random) -> None:
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


def _read_state(path: Path, place: Place, random: Random) -> None:
    AtomicCheckpointIO().load_checkpoint(path)


def _resumable(place: Place, random: Random) -> tuple[str, bytes]:
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


def _resume(path: Path, place: Place, random: Random) -> None:
    folder = place.folder / "run"
    shutil.copytree(place.samples / "stopped", folder)
    shutil.copy(path, folder / "last.ckpt")
    run(RUN, folder)


def _json(sample: str) -> Callable[[Place, Random], tuple[str, bytes]]:
    def damaged(place: Place, random: Random) -> tuple[str, bytes]:
        if random.random() < 0.2:
            return "bytes", any_bytes(place, sample, random)
        return "values", odd_json(_parsed(place.samples / sample), random).encode(errors="surrogatepass")

    return damaged


@cache
def _parsed(path: Path) -> Any:
    return json.loads(path.read_text())


def _read_study(path: Path, place: Place, random: Random) -> None:
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


def _read_result(path: Path, place: Place, random: Random) -> None:
    result = read_result(path.parent)
    assert result is not None
    assert result.accuracy is not None


def _run_again(name: str) -> Callable[[Path, Place, Random], None]:
    def again(path: Path, place: Place, random: Random) -> None:
        folder = place.folder / "run"
        shutil.copytree(place.samples / "finished", folder)
        shutil.copy(path, folder / name)
        run(RUN, folder)

    return again


def _yaml(kind: Any) -> Callable[[Place, Random], tuple[str, bytes]]:
    def damaged(place: Place, random: Random) -> tuple[str, bytes]:
        files = list(shipped(kind).values())
        text = files[int(random.integers(len(files)))].read_text()
        if random.random() < 0.3:
            return "bytes", BY_BYTES[list(BY_BYTES)[int(random.integers(len(BY_BYTES)))]](
                text.encode(), files[0].read_bytes(), random
            )
        return "tags and structure", odd_yaml(text, str(place.canary), random).encode()

    return damaged


def _read_recipe(path: Path, place: Place, random: Random) -> None:
    parsed = train_command.parser().parse(train_command.arguments([str(path)]))
    config_from(parsed, RunConfig)


def _read_questions(path: Path, place: Place, random: Random) -> None:
    parsed = study_command.parser().parse(study_command.arguments([str(path)]))
    config_from(parsed, StudyConfig)


def _read_run_of(path: Path, place: Place, random: Random) -> None:
    shutil.copy(path, path.parent / "config.yaml")
    run_of(path.parent / "best.safetensors")


def _read_benchmark(path: Path, place: Place, random: Random) -> None:
    BenchmarkResult.from_json(path.read_text())


def _read_hub(path: Path, place: Place, random: Random) -> None:
    shutil.copy(place.samples / "hub" / "model.safetensors", path.parent / "model.safetensors")
    load_model(f"local-dir:{path.parent}")


def _read_analysis(path: Path, place: Place, random: Random) -> None:
    (path.parent / "analysis").mkdir()
    shutil.copy(path, path.parent / "analysis" / "results.json")
    read_analysis(path.parent)


def _read_images(source: Any) -> Callable[[Path, Place, Random], None]:
    def read(path: Path, place: Place, random: Random) -> None:
        cache_folder = str(place.folder / "cache")
        config = DataConfig(source=source, root=str(path.parent), held_out=0.5, cache=cache_folder)
        train = open_parts(config, channels=3).train
        for index in range(min(8, len(train.labels_M))):
            with contextlib.suppress(BrokenImageError):
                train.read(index)

    return read


def _read_index(path: Path, place: Place, random: Random) -> None:
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


def _read_export(path: Path, place: Place, random: Random) -> None:
    if path.suffix == ".xml" and not path.with_suffix(".bin").exists():
        shutil.copy(place.samples / "model.bin", path.with_suffix(".bin"))
    model, description = load_exported(path)
    model(torch.zeros(2, description.input.channels, *description.input.image_size))


def _sample(name: str) -> Callable[[Place, Random], tuple[str, bytes]]:
    return lambda place, random: ("bytes", any_bytes(place, name, random))


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        file: its name.
        damaged: damages a sample; gives the kind of damage, and the file.
        read: reads it.
        share: how often it is tried, relative to the others.
        needs: sample that must be there; those of optional packages may not.
        nameless: whether the function gets a text rather than a path, so that its error cannot name the file.
    """

    file: str
    damaged: Callable[[Place, Random], tuple[str, bytes]]
    read: Callable[[Path, Place, Random], None]
    share: float
    needs: str = ""
    nameless: bool = False


KINDS = {
    "safetensors": Kind("model.safetensors", _safetensors, _read_weights, 20),
    "PyTorch's pickles": Kind("model.pth", _pickle, _read_weights, 24),
    "state of a run": Kind("last.ckpt", _pickle, _read_state, 8),
    "state of a run, resumed": Kind("last.ckpt", _resumable, _resume, 0.6),
    "study.json": Kind("study.json", _json("study-equal_time-cifar10.json"), _read_study, 10),
    "result.json": Kind("result.json", _json("finished/result.json"), _read_result, 6),
    "result.json of a run that is started again": Kind(
        "result.json", _json("finished/result.json"), _run_again("result.json"), 1
    ),
    "config.yaml of a run that is started again": Kind("config.yaml", _yaml("recipe"), _run_again("config.yaml"), 1),
    "config.yaml beside a model": Kind("run.yaml", _yaml("recipe"), _read_run_of, 3),
    "recipe": Kind("recipe.yaml", _yaml("recipe"), _read_recipe, 6),
    "question of a study": Kind("question.yaml", _yaml("study"), _read_questions, 3),
    "results of a benchmark": Kind("results.json", _json("benchmark.json"), _read_benchmark, 4, nameless=True),
    "config.json of the hub, with class names": Kind("config.json", _json("hub/config.json"), _read_hub, 5),
    "Parquet": Kind("train.parquet", _sample("train.parquet"), _read_images("parquet"), 2),
    "Parquet with names": Kind("train.parquet", _sample("names.parquet"), _read_images("parquet"), 1),
    "tar of WebDataset": Kind("train.tar", _sample("train.tar"), _read_images("webdataset"), 3),
    "index of a folder": Kind("index.parquet", _sample("train.parquet"), _read_index, 4),
    "ONNX": Kind("model.onnx", _sample("model.onnx"), _read_export, 3, "model.onnx"),
    "OpenVINO's graph": Kind("model.xml", _sample("model.xml"), _read_export, 1.5, "model.xml"),
}
