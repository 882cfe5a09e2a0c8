"""The kinds of files that the project reads, and how often the campaign tries each."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from damage import Random
from readers import (
    Place,
    damaged_bytes,
    damaged_json,
    damaged_pickle,
    damaged_safetensors,
    damaged_yaml,
    other_state,
    read_analysis_of,
    read_benchmark,
    read_export,
    read_hub,
    read_images,
    read_index,
    read_questions,
    read_recipe,
    read_result_of,
    read_run_of,
    read_state,
    read_study,
    read_weights,
    resume,
    run_again,
)


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        file: its name.
        damaged: damages a sample; gives the kind of damage, and the file.
        read: reads it.
        share: how often it is tried, relative to the others.
        needs: sample that must be there; those of optional packages may not.
        nameless: whether the error names a field instead: of a file that the command names, or a text without a file.
    """

    file: str
    damaged: Callable[[Place, Random], tuple[str, bytes]]
    read: Callable[[Path, Place, Random], None]
    share: float
    needs: str = ""
    nameless: bool = False


KINDS = {
    "safetensors": Kind("model.safetensors", damaged_safetensors, read_weights, 20),
    "PyTorch's pickles": Kind("model.pth", damaged_pickle, read_weights, 24),
    "state of a run": Kind("last.ckpt", damaged_pickle, read_state, 8),
    "state of a run, resumed": Kind("last.ckpt", other_state, resume, 0.6),
    "study.json": Kind("study.json", damaged_json("study-equal_time-cifar10.json"), read_study, 10),
    "result.json": Kind("result.json", damaged_json("finished/result.json"), read_result_of, 6),
    "result.json of a run that is started again": Kind(
        "result.json", damaged_json("finished/result.json"), run_again("result.json"), 1
    ),
    "config.yaml of a run that is started again": Kind(
        "config.yaml", damaged_yaml("recipe"), run_again("config.yaml"), 1
    ),
    "config.yaml beside a model": Kind("run.yaml", damaged_yaml("recipe"), read_run_of, 3),
    "recipe": Kind("recipe.yaml", damaged_yaml("recipe"), read_recipe, 6, nameless=True),
    "question of a study": Kind("question.yaml", damaged_yaml("study"), read_questions, 3, nameless=True),
    "results of a benchmark": Kind("results.json", damaged_json("benchmark.json"), read_benchmark, 4, nameless=True),
    "results.json of an analysis": Kind("results.json", damaged_json("analysis.json"), read_analysis_of, 2),
    "config.json of the hub, with class names": Kind("config.json", damaged_json("hub/config.json"), read_hub, 5),
    "Parquet": Kind("train.parquet", damaged_bytes("train.parquet"), read_images("parquet"), 2),
    "Parquet with names": Kind("train.parquet", damaged_bytes("names.parquet"), read_images("parquet"), 1),
    "tar of WebDataset": Kind("train.tar", damaged_bytes("train.tar"), read_images("webdataset"), 3),
    "index of a folder": Kind("index.parquet", damaged_bytes("train.parquet"), read_index, 4),
    "ONNX": Kind("model.onnx", damaged_bytes("model.onnx"), read_export, 3, "model.onnx"),
    "OpenVINO's graph": Kind("model.xml", damaged_bytes("model.xml"), read_export, 1.5, "model.xml"),
}
