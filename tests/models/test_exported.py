"""Exported models: the same answers as the original, the same description, and clear errors for other files."""

import builtins
import ctypes
import gc
import re
import sys
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from localvit import LocalityConfig, ModelDescription, localize
from localvit.data.config import InputConfig
from localvit.models.catalog import PUBLISHED
from localvit.models.exported import Batch, ErrorGoal, export_model, load_exported
from localvit.models.weights.model_file import create_model
from localvit.system.errors import LocalViTError

onnx = pytest.importorskip("onnx", reason="the extras onnx and openvino are not installed")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

SMALL: dict[str, Any] = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}


def description_of(name: str, size: int = 32, **arguments: Any) -> ModelDescription:
    return ModelDescription(name, arguments, ("a", "b", "c"), InputConfig(image_size=(size, size)))


def built(description: ModelDescription, **locality: Any) -> nn.Module:
    """A model whose weights, and statistics of norms, are unlike those of any initialization."""
    torch.manual_seed(0)
    model = create_model(description.name, description.input, num_classes=3, **description.arguments)
    if locality:
        localize(model, **locality)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.05)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return model.eval()


def images(description: ModelDescription, count: int) -> Tensor:
    return torch.randn(count, 3, *description.input.image_size, generator=torch.Generator().manual_seed(1))


def assert_same(model: nn.Module, description: ModelDescription, path: Path, batch: Batch = "dynamic") -> None:
    """Export and load again: the same logits for several numbers of images, and the same description."""
    export_model(model, description, path, batch=batch)
    exported, found = load_exported(path, trusted=True)
    assert found == description
    for count in (1, 3):
        shown = images(description, count)
        with torch.inference_mode():
            expected = model(shown)
        assert exported(shown).shape == expected.shape
        assert float((exported(shown) - expected).abs().max()) < 1e-4 * max(1.0, float(expected.abs().max()))


@pytest.fixture(scope="module")
def small() -> tuple[nn.Module, ModelDescription]:
    description = description_of("vit_tiny_patch16_224", **SMALL)
    return built(description, config=LocalityConfig(channel_attention="se", se_reduction=4)), description


@pytest.mark.parametrize(
    ("ending", "batch"),
    [(".onnx", "dynamic"), (".xml", "dynamic"), (".xml", 2), pytest.param(".onnx", 1, marks=pytest.mark.slow)],
)
def test_an_exported_model_answers_like_the_original(
    ending: str, batch: Batch, small: tuple[nn.Module, ModelDescription], tmp_path: Path
) -> None:
    assert_same(*small, tmp_path / f"model{ending}", batch)


def test_locality_beside_a_pretrained_mlp_is_exported(tmp_path: Path) -> None:
    description = description_of("vit_tiny_patch16_224", **SMALL)
    assert_same(built(description, mode="residual"), description, tmp_path / "model.onnx")


def test_the_small_number_in_performer_attention_survives(tmp_path: Path) -> None:
    """The denominators of T2T-ViT are near 1e-8, which an optimizer of graphs once took for zero."""
    description = description_of("t2t_vit_7", 64)
    assert_same(built(description), description, tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("batch", ["dynamic", 2])
def test_a_compiled_package_answers_like_the_original(
    batch: Batch, small: tuple[nn.Module, ModelDescription], tmp_path: Path
) -> None:
    assert_same(*small, tmp_path / "model.pt2", batch)


@pytest.mark.slow
def test_a_package_has_packed_weights_and_the_threads_of_where_it_runs(
    small: tuple[nn.Module, ModelDescription], tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        export_model(*small, tmp_path / "model.pt2", batch=1)
    finally:
        torch.set_num_threads(before)
    with zipfile.ZipFile(tmp_path / "model.pt2") as package:
        code = b"".join(package.read(name) for name in package.namelist() if name.endswith(".cpp")).decode()
    assert re.search(r"#pragma omp parallel\b", code)
    assert not re.search(r"num_threads\(\d", code)
    assert "mkldnn__convolution_pointwise(" in code
    assert "cpu_convolution(" not in code


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".onnx", ".xml"])
@pytest.mark.parametrize("name", [model.name for model in PUBLISHED])
def test_every_model_of_the_paper_and_its_baseline_is_exported(name: str, ending: str, tmp_path: Path) -> None:
    description = description_of(name, 224)
    assert_same(built(description), description, tmp_path / f"model{ending}")


def test_files_hold_no_path_of_this_machine(small: tuple[nn.Module, ModelDescription], tmp_path: Path) -> None:
    export_model(*small, tmp_path / "model.onnx", batch=1)
    export_model(*small, tmp_path / "model.xml", batch=1)
    for name in ("model.onnx", "model.xml"):
        content = (tmp_path / name).read_bytes()
        assert b"site-packages" not in content
        assert b"localvit/" not in content
        assert str(tmp_path).encode() not in content


class SignalStack(ctypes.Structure):
    _fields_: ClassVar = [("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


def signal_stack_exists() -> bool:
    """Whether this thread has a stack for signals whose memory exists, or none at all. Only Linux says so."""
    if sys.platform != "linux":
        return True
    stack = SignalStack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    parts = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines()]
    return not stack.address or any(int(start, 16) <= stack.address < int(end, 16) for start, end in parts)


def test_int8_is_smaller_and_close(small: tuple[nn.Module, ModelDescription], tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    model, description = small
    shown = images(description, 12)
    formats: list[tuple[str, Batch]] = [(".onnx", 3), (".xml", "dynamic")]
    for ending, batch in formats:
        path = tmp_path / f"model{ending}"
        export_model(model, description, path, batch=batch, calibration=[shown])
        exported, found = load_exported(path)
        assert found == description
        with torch.inference_mode():
            expected, answer = model(shown), exported(shown)
        error = float((answer - expected).square().mean() / expected.var())
        assert 0 < error < 0.05  # rounded, but hardly
    with pytest.raises(LocalViTError, match="there are none"):
        export_model(model, description, tmp_path / "none.xml", calibration=[])


def test_int8_is_close_where_smoothing_is_not(tmp_path: Path) -> None:
    """With smoothed activations, OpenVINO's graph of Swin misses a tenth of the square of the logits."""
    pytest.importorskip("nncf")
    description = description_of(
        "swin_tiny_patch4_window7_224", patch_size=4, window_size=4, embed_dim=32, depths=(2, 2), num_heads=(1, 2)
    )
    model, shown = built(description), images(description, 8)
    export_model(model, description, tmp_path / "model.xml", batch=1, calibration=[shown])
    exported, _ = load_exported(tmp_path / "model.xml")
    answer = torch.cat([exported(image_1CHW) for image_1CHW in shown.split(1)])
    with torch.inference_mode():
        expected = model(shown)
    assert float((answer - expected).square().mean()) < 0.01 * float(expected.square().mean())


def test_int8_of_weights_too_large_for_a_hasty_optimizer(tmp_path: Path) -> None:
    """ONNX's optimizer leaves larger weights as an operation on a weight, which NNCF cannot smooth."""
    pytest.importorskip("nncf")
    description = description_of("vit_tiny_patch16_224", **SMALL | {"embed_dim": 48})
    model = built(description, config=LocalityConfig(channel_attention="se", se_reduction=4))
    export_model(model, description, tmp_path / "model.onnx", batch=1, calibration=[images(description, 2)])
    assert load_exported(tmp_path / "model.onnx")[1] == description


@pytest.mark.slow
@pytest.mark.parametrize("batch", ["dynamic", 2])
def test_int8_of_a_compiled_package(batch: Batch, small: tuple[nn.Module, ModelDescription], tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    model, description = small
    shown = images(description, 12)
    export_model(model, description, tmp_path / "int8.pt2", batch=batch, calibration=[shown])
    exported, found = load_exported(tmp_path / "int8.pt2", trusted=True)
    assert found == description
    with torch.inference_mode():
        expected = model(shown)
    error = float((exported(shown) - expected).square().mean() / expected.var())
    assert 0 < error < 0.05  # rounded, but hardly


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".onnx", ".xml"])
@pytest.mark.parametrize("name", [model.name for model in PUBLISHED])
def test_int8_of_every_model_of_the_paper_and_its_baseline(name: str, ending: str, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    description = description_of(name, 224)
    model, shown = built(description), images(description, 4)
    export_model(model, description, tmp_path / f"model{ending}", batch=1, calibration=[shown])
    with torch.inference_mode():
        expected = model(shown)
    exported, _ = load_exported(tmp_path / f"model{ending}")
    answer = torch.cat([exported(image_1CHW) for image_1CHW in shown.split(1)])
    assert float((answer - expected).square().mean()) < 0.1 * float(expected.square().mean())


def with_a_layer_that_int8_destroys(model: nn.Module) -> nn.Module:
    """Give a hidden channel that is always zero so large a weight that the others of its layer round to zero."""
    locality = model.get_submodule("blocks.0.mlp.locality")
    with torch.no_grad():
        for name, scale in (("expand", 20.0), ("depthwise", 20.0), ("project", 8.0)):
            locality.get_parameter(f"{name}.norm.weight").fill_(scale)
        locality.get_parameter("depthwise.norm.weight")[0] = 0
        locality.get_parameter("depthwise.norm.bias")[0] = 0
        locality.get_parameter("project.conv.weight")[:, 0] = 3000
    return model


@pytest.mark.parametrize(("ending", "batch"), [(".onnx", 4), (".xml", "dynamic")])
def test_a_layer_that_int8_would_destroy_stays_in_full_precision(ending: str, batch: Batch, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    description = description_of("vit_tiny_patch16_224", **SMALL, class_token=False, global_pool="avg")
    model = with_a_layer_that_int8_destroys(built(description, config=LocalityConfig()))
    candidates = images(description, 300)
    with torch.inference_mode():
        logits_MK = model(candidates)
        logits_MK -= logits_MK.mean(0)
        model.get_parameter("head.bias").sub_(model(candidates).mean(0))
    best_M2 = logits_MK.topk(2).values
    clear = (best_M2[:, 0] - best_M2[:, 1]).topk(60).indices  # rounding of the other layers does not change them
    shown, labels = candidates[clear], logits_MK[clear].argmax(1)
    assert len(labels.unique()) == 3

    def accuracy(**options: Any) -> float:
        export_model(model, description, tmp_path / f"model{ending}", batch=batch, calibration=[shown[:20]], **options)
        exported, found = load_exported(tmp_path / f"model{ending}")
        assert found == description
        return 100 * float((exported(shown).argmax(1) == labels).float().mean())

    seen: list[int] = []
    assert accuracy() < 60
    assert accuracy(goal=ErrorGoal(0.1, seen.append)) >= 98
    assert sum(seen) > 60
    gc.collect()
    assert signal_stack_exists()
    weights = f"model{'.bin' if ending == '.xml' else ending}"
    export_model(model, description, tmp_path / "full" / f"model{ending}", batch=batch)
    sizes = [(folder / weights).stat().st_size for folder in (tmp_path, tmp_path / "full")]
    assert sizes[0] < 0.8 * sizes[1]  # the other layers are in int8


def test_a_signal_finds_its_stack_after_openvino(small: tuple[nn.Module, ModelDescription], tmp_path: Path) -> None:
    """Ctrl-C ended the process with a segmentation fault."""
    model, description = small
    path, shown = tmp_path / "model.xml", images(description, 4)
    export_model(model, description, path)
    loaded = [load_exported(path)[0] for _ in range(3)]
    while loaded:
        loaded.pop(0)(shown)
        gc.collect()
        assert signal_stack_exists()


def foreign(path: Path) -> None:
    """An ONNX file of another program."""
    shape = ["batch", 3, 32, 32]
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), path)


def test_other_files_are_refused_with_what_is_wrong(small: tuple[nn.Module, ModelDescription], tmp_path: Path) -> None:
    for ending in (".onnx", ".xml"):
        path = tmp_path / f"model{ending}"
        with pytest.raises(FileNotFoundError, match="there is no file"):
            load_exported(path)
        export_model(*small, path)
        content = path.read_bytes()
        assert b"class_names" in content
        for changed in (b"not a graph", content[:-1000]):
            path.write_bytes(changed)
            with pytest.raises(ValueError, match="is damaged, or no"):
                load_exported(path)
        path.write_bytes(content.replace(b"class_names", b"glass_names"))
        with pytest.raises(ValueError, match="damaged or from another version"):
            load_exported(path)
    path.with_suffix(".bin").unlink()
    with pytest.raises(FileNotFoundError, match="which holds the weights"):
        load_exported(path)
    foreign(tmp_path / "foreign.onnx")
    with pytest.raises(ValueError, match="does not say which classes it knows"):
        load_exported(tmp_path / "foreign.onnx")


def test_machine_code_runs_only_if_trusted(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as file:
        file.writestr("archive/data/aotinductor/model/code.so", b"machine code")
    with pytest.raises(LocalViTError, match=r"holds machine code.*add --trust"):
        load_exported(tmp_path / "model.pt2")
    with pytest.raises(ValueError, match="is damaged, or no package"):
        load_exported(tmp_path / "model.pt2", trusted=True)


def test_a_graph_for_another_size_than_described_is_refused(tmp_path: Path) -> None:
    description = description_of("vit_tiny_patch16_224", **SMALL)
    export_model(built(description), description, tmp_path / "model.onnx")
    text = (tmp_path / "model.onnx").read_bytes()
    (tmp_path / "model.onnx").write_bytes(text.replace(b'"image_size": [32, 32]', b'"image_size": [32, 40]'))
    with pytest.raises(ValueError, match=r"takes images of the shape \[3, 32, 32\], and its description says"):
        load_exported(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("package", "ending", "extra"),
    [("onnxscript", ".onnx", "onnx"), ("openvino", ".xml", "openvino"), ("nncf", ".xml", "quantize")],
)
def test_a_missing_extra_is_named(
    package: str,
    ending: str,
    extra: str,
    small: tuple[nn.Module, ModelDescription],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr("importlib.import_module", lambda name: without(name, {}, {}, ["x"]))
    calibration = [images(small[1], 2)] if extra == "quantize" else None
    with pytest.raises(LocalViTError, match=rf"pip install localvit\[{extra}\]"):
        export_model(*small, tmp_path / f"model{ending}", calibration=calibration)


def test_a_model_that_cannot_be_traced_is_refused(tmp_path: Path) -> None:
    class Strange(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :3] if float(x.sum()) > 0 else x.flatten(1)[:, 3:6]

    description = description_of("vit_tiny_patch16_224", **SMALL)
    with pytest.raises(LocalViTError, match="vit_tiny_patch16_224 cannot be exported"):
        export_model(Strange(), description, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
