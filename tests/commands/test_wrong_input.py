"""Whatever a user types, a command answers with a message and an exit status, never with a traceback."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

from localvit.commands.cli import COMMANDS, main

LONG = "x" * 5000

# For each command about twenty inputs, in which names in braces stand for the files of `place`.
WRONG = {
    "train": """
        nothing | {folder} | {empty} | {binary} | {broken_yaml} | {list} | {scalar} | {unknown_field} | {png} | {long}
        {broken_recipe} | --config | --config nothing | --config {folder}
        digits --training.epochs -1 | digits --training.epochs nan
        digits --training.epochs many | digits --training.learning_rate -1 | digits --training.no_such 1
        digits --model.name no_such_model {out} | digits --model.locality.kernel_size 2 | digits --hardware.precision 7
        digits --hardware.accelerator abacus {out} | digits --data.source shelf | digits --data.held_out 1.5
        digits --output {file}/run | digits --output {png} | photos --data.root nothing {out}
        photos --data.root {file} {out} | photos --data.root {folder} {out} | photos {out}
        digits --model.checkpoint nothing {out} | digits --model.checkpoint {text} {out} | digits --model.layers lower
        digits --model.arguments {{"no_such":1}} {out} | digits --model.arguments {{"num_heads":7}} {out}
        digits --distillation.teacher no_such {out} | digits --seed one | digits extra | recipes/nothing.yaml
    """,
    "study": """
        nothing | {folder} | {empty} | {binary} | {broken_yaml} | {list} | {scalar} | {unknown_field} | {png} | {long}
        --config | --config {folder} | rq1_depthwise --scale nothing | rq1_depthwise --scale {folder}
        rq1_depthwise --scale {broken_recipe} | rq1_depthwise --seeds 1 | rq1_depthwise --seeds [1] --dry-run
        rq1_depthwise --seeds [1,1] | rq1_depthwise --seeds many | rq1_depthwise --jobs 0 | rq1_depthwise --jobs few
        rq1_depthwise --shard 3 --dry-run | rq1_depthwise --shard 3/2 --dry-run | rq1_depthwise --baseline other
        rq1_depthwise --recipe.training.epochs 0 | rq1_depthwise --recipe.no_such 1 | rq1_depthwise --output {file}
        rq1_depthwise --chart pie | rq1_depthwise --measure perhaps | {no_variants} | {empty_variants}
    """,
    "eval": """
        --checkpoint | --checkpoint nothing | --checkpoint {folder} | --checkpoint {empty} | --checkpoint {binary}
        --checkpoint {text} | --checkpoint {png} | --checkpoint {truncated} | --checkpoint {bare} | --checkpoint {long}
        --checkpoint {bare} --model no_such | --checkpoint {bare} --model resnet10t --data.source digits
        --checkpoint {bare} --data.source shelf | --checkpoint {bare} --data.root nothing --model test_vit
        --checkpoint {bare} --data.root {folder} --model test_vit | --checkpoint {bare} --model test_vit
        --checkpoint {bare} --batch_size 0 | --checkpoint {bare} --batch_size many | --checkpoint {bare} --no-such
        --checkpoint {bare} --hardware.devices 0 | --checkpoint {bare} --data.held_out 2 | extra
    """,
    "predict": """
        {png} | --checkpoint nothing {png} | --checkpoint {folder} {png} | --checkpoint {empty} {png}
        --checkpoint {binary} {png} | --checkpoint {text} {png} | --checkpoint {png} {png}
        --checkpoint {truncated} {png} | --checkpoint {bare} {png} | --checkpoint {bare} --model no_such {png}
        --checkpoint {bare} --model resnet10t {png} | --checkpoint {bare} --model test_vit
        --checkpoint {bare} --model test_vit nothing | --checkpoint {bare} --model test_vit {text_png}
        --checkpoint {bare} --model test_vit {folder} | --checkpoint {bare} --model test_vit --top 0 {png}
        --checkpoint {bare} --model test_vit --top many {png}
        --checkpoint {bare} --model test_vit --device abacus {png}
        --checkpoint {bare} --model test_vit --batch_size -3 {png} | --checkpoint {bare} --model test_vit {long}
        --checkpoint {bare} --model test_vit {empty} | --no-such | --checkpoint {long} {png}
    """,
    "report": """
        nothing | {folder} | {file} | {empty} | {binary} | {png} | {long} | {broken_study} | {list_study}
        {empty_study}
        {folder} nothing | --output {folder} | {folder} --output {file} | --no-such | {broken_study} {list_study}
        {old_study} | {folder} --output | nothing --output {out_folder} | {text} {text} | {bare}
    """,
    "analyze": """
        nothing.safetensors | no_such_model | {folder}/a.safetensors | {empty} | {binary} | {text} --images {png}
        {long} | {bare} --images {png} | {bare} --model no_such --images {png} | {truncated} --images {png}
        test_vit test_vit --images {png} | test_vit | test_vit --images nothing | test_vit --images {folder}
        test_vit --images {text_png} | test_vit --data.root nothing | test_vit --data.root {folder}
        test_vit --data.source shelf | test_vit --images {png} --count 0 | test_vit --images {png} --count many
        test_vit --images {png} --measures no_such | test_vit --images {png} --measures 7
        test_vit --images {png} --device abacus | test_vit --images {png} --output {file} | test_vit --no-such
        --study nothing | --study {folder} | --study {broken_study} | --study {list_study} | --study {old_study}
        test_vit --study {folder} | --images {png} | --pretrained perhaps
    """,
    "models": """
        extra | --no-such | --json yes | --json --no-such | -x | --output a | localvit | 1 | --jsn | {file} | {long}
        --json extra | --config {file} | -j | --json=no | --all | --model deit | --help-me | {folder} | nothing nothing
    """,
    "bench": """
        no_such | test_vit no_such | test_vit --precision fp64 | test_vit --mode both | test_vit --batch-size 0
        test_vit --batch-size many | test_vit --image-size 0 | test_vit --image-size 16x | test_vit --image-size axb
        test_vit --device abacus | test_vit --threads 0 | test_vit --rounds 0 | test_vit --rounds -1 | --no-such
        test_vit --compile perhaps | test_vit --fuse True --mode training | test_vit --precision bf16 --mode training
        test_vit --save-memory True --mode inference | {file} | {long} | test_vit --batch-size 1.5
    """,
    "convert": """
        nothing | nothing out.safetensors | {folder} {out_file} | {empty} {out_file} | {binary} {out_file}
        {text} {out_file} | {png} {out_file} | {truncated} {out_file} | {png} {png} | {bare} out.unknown
        {bare} {folder} | {text} {file}/out.safetensors | {bare} {out_file} --model no_such | {bare}
        {bare} {out_file} --model test_vit | {bare} {out_file} --no-such | {bare} {out_file} extra | {long} {out_file}
        {list} {out_file} | {out_file} {bare} | --model test_vit
    """,
    "export": """
        nothing --to onnx | {bare} | {bare} --to | {bare} --to word | {bare} --to onnx | {folder} --to onnx
        {empty} --to onnx | {binary} --to onnx | {text} --to onnx | {png} --to onnx | {truncated} --to onnx
        {bare} --to onnx --model no_such | {long} --to onnx | {bare} --to onnx --batch 0 --model test_vit
        {bare} --to onnx --batch many --model test_vit | {bare} --to onnx --max-drop -1 --model test_vit
        {bare} --to onnx --images nothing --model test_vit | {bare} --to onnx --data.source shelf --model test_vit
        {bare} --to onnx --data.root nothing --model test_vit | {bare} --to onnx --int8 --model test_vit | --no-such
        {bare} --to onnx --images {folder} --model test_vit | {bare} --to onnx --count 0 --model test_vit
    """,
    "demo": """
        nothing | {folder} | {empty} | {binary} | {text} | {png} | {truncated} | {bare} | {long} | --no-such
        {bare} extra | {bare} --model no_such | {bare} --model test_vit --runtime nothing
        {bare} --model test_vit --runtime {folder}
        {bare} --model test_vit --runtime {file} | {bare} --model test_vit --runtime http://127.0.0.1:9/x
        {bare} --model test_vit --port -1 | {bare} --model test_vit --port many | {bare} --output | --serve
        {bare} --model test_vit --runtime abc://x
    """,
    "push": """
        nothing a/b | {folder} a/b | {empty} a/b | {binary} a/b | {text} a/b | {png} a/b | {truncated} a/b | {bare} a/b
        {long} a/b | {bare} a/b --model no_such | {bare} | {bare} a/b/c --model test_vit
        {bare} {long} --model test_vit
        {bare} local-dir:{file} --model test_vit | {bare} local-dir:{file}/a --model test_vit | {bare} a/b --no-such
        {bare} a/b extra | {bare} a/b --private maybe | {bare} a/b --license | --private
        {bare} a..b/c --model test_vit
    """,
    "pull": """
        nothing | a/b/c | {folder} | hf-hub:a | hf-hub: | hf-hub:a/b/c | {long} | a/b extra | a/b --no-such | {file}
        -x | a/b --output | a//b | a/b/ | /a/b | @ | a@b | a..b/c | -a/b | a/b..c | .a/b
    """,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files of many wrong kinds, by name."""
    root = tmp_path_factory.mktemp("place")

    def write(name: str, content: bytes) -> Path:
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path

    weights = timm.create_model("test_vit", num_classes=3).state_dict()
    safetensors.torch.save_file(weights, root / "bare.safetensors")
    Image.new("RGB", (16, 16)).save(root / "image.png")
    (root / "folder").mkdir()
    files = {
        "file": write("file", b"text"),
        "empty": write("empty", b""),
        "binary": write("binary", os.urandom(1000)),
        "text": write("text.safetensors", b"no weights"),
        "text_png": write("text.png", b"no image"),
        "truncated": write("truncated.safetensors", (root / "bare.safetensors").read_bytes()[:500]),
        "bare": root / "bare.safetensors",
        "png": root / "image.png",
        "folder": root / "folder",
        "broken_yaml": write("broken.yaml", b"a: [1, 2"),
        "list": write("list.yaml", b"- 1\n- 2\n"),
        "scalar": write("scalar.yaml", b"7\n"),
        "unknown_field": write("unknown.yaml", b"no_such_field: 1\n"),
        "broken_recipe": write("recipe.yaml", b"model: 7\n"),
        "no_variants": write("no_variants.yaml", b"name: a\nquestion: b\n"),
        "empty_variants": write("empty_variants.yaml", b"name: a\nquestion: b\nvariants:\nbaseline: c\n"),
        "broken_study": write("broken/study.json", b"{").parent,
        "list_study": write("list/study.json", b"[1]").parent,
        "empty_study": write("nothing/study.json", b"").parent,
        "old_study": write("old/study.json", b'{"version": 0}').parent,
        "out_file": root / "out.safetensors",
        "out_folder": root / "out",
    }
    return {name: str(path) for name, path in files.items()} | {"out": f"--output {root / 'out'}", "long": LONG}


CASES = [
    (command, " ".join(line.split()))
    for command, lines in WRONG.items()
    for line in lines.replace("\n", "|").split("|")
    if line.strip()
]


def test_every_command_is_tried_with_about_twenty_inputs() -> None:
    counts = {command: sum(name == command for name, _ in CASES) for command in COMMANDS}
    assert min(counts.values()) >= 20, counts


@pytest.mark.parametrize(("command", "line"), CASES)
def test_wrong_input_ends_in_a_message(
    command: str,
    line: str,
    place: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = [word.format(**place) for word in line.split()]
    status = _status(lambda: main([command, *(word for one in arguments for word in one.split(" "))]))
    error = capsys.readouterr().err
    assert status in (1, 2), error
    assert error.strip()
    assert "Traceback" not in error


def _status(call: Callable[[], int]) -> int | str | None:
    try:
        return call()
    except SystemExit as ended:
        return ended.code
