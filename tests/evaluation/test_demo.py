"""The page for browsers, in a browser: the same answers as in Python, usable by hand, keyboard and phone."""

import base64
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import CONTRAST
from PIL import Image
from playwright.sync_api import Browser, Page, Route
from rich.console import Console
from sklearn.datasets import load_sample_images
from torch import nn

from localvit import ModelDescription, localize, save_model
from localvit.commands.cli import main
from localvit.data.config import InputConfig
from localvit.data.images import decode_image
from localvit.data.transforms import evaluation_transform
from localvit.evaluation.demo import runtime_files, serve, write_demo
from localvit.evaluation.predict import predict
from localvit.models.exported import export_model, load_exported
from localvit.models.weights.model_file import create_model
from localvit.system.errors import LocalViTError

pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
if shutil.which("npm") is None:
    pytest.skip("ONNX Runtime Web comes from npm, which is not installed", allow_module_level=True)

CLASSES = ("cat & dog", "</script>", "rose", "temple", "sky")
# Width, height and format: larger and smaller than the model's image, tall and wide, odd sides.
PHOTOGRAPHS = [
    (640, 427, "jpg"), (427, 640, "png"), (96, 96, "png"), (97, 61, "jpg"), (40, 90, "png"),
    (333, 334, "webp"), (1200, 500, "jpg"), (50, 50, "bmp"), (128, 33, "png"), (200, 201, "jpg"),
]  # fmt: skip


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of ONNX Runtime Web, as published."""
    folder = tmp_path_factory.mktemp("runtime")
    command = ["npm", "pack", "--silent", "onnxruntime-web@1.22.0"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package" / "dist"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twenty photographs: both that come with scikit-learn, in ten sizes and four formats."""
    folder = tmp_path_factory.mktemp("photographs")
    paths = []
    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        for width, height, kind in PHOTOGRAPHS:
            paths.append(folder / f"{name}-{width}-{height}.{kind}")
            options = {"lossless": True} if kind == "webp" else {"quality": 92} if kind == "jpg" else {}
            Image.fromarray(pixels).resize((width, height)).save(paths[-1], **options)
    return paths


def model_for(shown: InputConfig, photographs: list[Path]) -> tuple[nn.Module, ModelDescription]:
    """A model whose answers to these photographs differ: its logits have mean 0 and standard deviation 2."""
    arguments = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
    description = ModelDescription("vit_tiny_patch16_224", arguments, CLASSES, shown)
    torch.manual_seed(3)
    model: Any = localize(create_model(description.name, shown, num_classes=len(CLASSES), **arguments)).eval()
    transform = evaluation_transform(shown)
    images = [transform(decode_image(path, str(path), channels=shown.channels)) for path in photographs]
    with torch.no_grad():
        logits_MK = model(torch.stack(images))
        scale_K = 2 / logits_MK.std(dim=0)
        model.head.weight.mul_(scale_K[:, None])
        model.head.bias.sub_(logits_MK.mean(dim=0)).mul_(scale_K)
    return model, description


@contextmanager
def opened(browser: Browser, folder: Path, query: str = "", **options: Any) -> Iterator[Page]:
    """The page from a server on this machine; an error in the browser, or a request to elsewhere, fails the test."""
    with serve(folder, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        context = browser.new_context(**options)
        page = context.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on(
            "request", lambda request: problems.append(request.url) if _is_elsewhere(request.url, address) else None
        )
        page.goto(f"{address}{query}")
        page.wait_for_function("window.localvit?.ready")
        yield page
        context.close()
        server.shutdown()
        assert problems == []


def _is_elsewhere(url: str, address: str) -> bool:
    return not url.startswith((address, "data:", "blob:"))


def shares_of(page: Page, photograph: Path) -> list[float]:
    """The probabilities that the page finds."""
    kind = {"jpg": "jpeg"}.get(photograph.suffix[1:], photograph.suffix[1:])
    address = f"data:image/{kind};base64,{base64.b64encode(photograph.read_bytes()).decode()}"
    found: list[float] = page.evaluate(
        "async (address) => window.localvit.look(await (await fetch(address)).blob())", address
    )
    return found


def assert_same_answers(page: Page, model: nn.Module, description: ModelDescription, photographs: list[Path]) -> None:
    predictions = list(predict(model, description, photographs, top=len(CLASSES)))
    firsts = [{found.name: found.probability for found in row.classes}[CLASSES[0]] for row in predictions]
    assert max(firsts) - min(firsts) > 0.3  # the answers differ by far more than what is allowed below
    for row in predictions:
        expected = {found.name: found.probability for found in row.classes}
        shares = dict(zip(CLASSES, shares_of(page, row.path), strict=True))
        assert max(shares, key=lambda name: shares[name]) == row.classes[0].name
        assert shares == pytest.approx(expected, abs=0.02)


@pytest.fixture(scope="module")
def demo(
    runtime: Path, photographs: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[nn.Module, ModelDescription, Path]:
    """A model, its description, and the folder of its page."""
    folder = tmp_path_factory.mktemp("demo")
    shown = InputConfig(image_size=(64, 64), mean=(0.45, 0.46, 0.4), std=(0.22, 0.23, 0.24))
    model, description = model_for(shown, photographs)
    save_model(model, description, folder / "best.safetensors")
    words = ["demo", str(folder / "best.safetensors"), "--output", str(folder / "page"), "--title", "A <b> & c"]
    assert main([*words, "--runtime", str(runtime)]) == 0
    return model, description, folder / "page"


def test_the_page_answers_as_python_does(
    demo: tuple[nn.Module, ModelDescription, Path], browser: Browser, photographs: list[Path]
) -> None:
    model, description, folder = demo
    with opened(browser, folder) as page:
        assert_same_answers(page, model, description, photographs)


@pytest.fixture(scope="module")
def browser_with_gpu(browser: Browser) -> Iterator[Browser]:
    """A browser whose GPU is a program that computes as one."""
    arguments = ["--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
    found = browser.browser_type.launch(executable_path=shutil.which("chromium"), args=arguments)
    page = found.new_page()
    page.goto("chrome://version")  # about:blank has no GPU, as it is not secure
    has_gpu = page.evaluate("async () => Boolean(await navigator.gpu?.requestAdapter())")
    page.close()
    if has_gpu:
        yield found
    found.close()
    if not has_gpu:
        pytest.skip("this Chromium comes without SwiftShader, which computes as a GPU does")


def test_a_gpu_answers_as_python_does_until_it_fails(
    demo: tuple[nn.Module, ModelDescription, Path], browser_with_gpu: Browser, photographs: list[Path]
) -> None:
    model, description, folder = demo
    with opened(browser_with_gpu, folder, "?on=webgpu") as page:
        page.set_default_timeout(120_000)
        page.wait_for_function("window.localvit.settled")
        assert page.evaluate("window.localvit.on") == "webgpu"
        page.set_input_files("#file", photographs[0])
        page.wait_for_selector("#answer:not([hidden])")
        assert page.inner_text("#time").endswith(" ms in this browser, on the GPU")
        page.click("#where")
        page.wait_for_selector("#where[aria-pressed=true]")
        assert_same_answers(page, model, description, photographs[::2])
        assert page.evaluate("window.localvit.on") == "webgpu"
        page.evaluate("() => { GPUQueue.prototype.submit = () => { throw new Error('lost'); }; }")
        assert_same_answers(page, model, description, photographs[::2])
        assert page.evaluate("window.localvit.on") == "wasm"


# In place of the runtime for GPUs: it remembers what it computed, so it is faster than WebAssembly.
QUICK_RUNTIME = """
import * as real from "./ort.wasm.min.mjs";
export const { env, Tensor } = real;
export const InferenceSession = { create: async (model) => {
  const session = await real.InferenceSession.create(model, { executionProviders: ["wasm"] });
  const [input] = session.inputNames, [output] = session.outputNames, known = new Map();
  return { inputNames: [input], outputNames: [output], run: async (given) => {
    const key = given[input].data.slice(0, 99).join();
    if (!known.has(key)) known.set(key, (await session.run(given))[output].data.map((logit) => FACTOR * logit));
    return { [output]: { data: known.get(key) } };
  } };
} };
"""


@pytest.mark.parametrize(("factor", "expected"), [("1", "webgpu"), ("0.5", "wasm")])
def test_a_gpu_is_taken_if_it_answers_alike_and_sooner(
    factor: str, expected: str, demo: tuple[nn.Module, ModelDescription, Path], browser_with_gpu: Browser
) -> None:
    runtime = QUICK_RUNTIME.replace("FACTOR", factor)
    with opened(browser_with_gpu, demo[2], "?on=wasm") as page:
        page.route("**/ort.webgpu.min.mjs", lambda route: route.fulfill(body=runtime, content_type="text/javascript"))
        page.goto(page.url.removesuffix("?on=wasm"))
        page.wait_for_function("window.localvit?.settled")
        assert page.evaluate("window.localvit.on") == expected


@pytest.mark.parametrize(
    "shown",
    [
        InputConfig(image_size=(48, 64), interpolation="bilinear", crop_fraction=0.9),
        InputConfig(
            image_size=(32, 32), channels=1, mean=(0.4,), std=(0.3,), interpolation="nearest", crop_fraction=1.0
        ),
    ],
)
def test_other_preprocessing_is_followed(
    shown: InputConfig, runtime: Path, browser: Browser, photographs: list[Path], tmp_path: Path
) -> None:
    model, description = model_for(shown, photographs)
    export_model(model, description, tmp_path / "model.onnx")
    write_demo(description, tmp_path / "model.onnx", tmp_path / "page", title="Other", runtime=runtime)
    with opened(browser, tmp_path / "page") as page:
        assert_same_answers(page, model, description, photographs)


def test_an_int8_file_is_shown_as_it_is(
    demo: tuple[nn.Module, ModelDescription, Path],
    runtime: Path,
    browser: Browser,
    photographs: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("nncf")
    model, description, _ = demo
    calibration = [torch.randn(32, 3, *description.input.image_size)]
    export_model(model, description, tmp_path / "int8.onnx", calibration=calibration)
    words = ["--output", str(tmp_path / "page"), "--runtime", str(runtime)]
    assert main(["demo", str(tmp_path / "int8.onnx"), *words]) == 0
    assert (tmp_path / "page" / "model.onnx").read_bytes() == (tmp_path / "int8.onnx").read_bytes()
    with opened(browser, tmp_path / "page") as page:
        assert_same_answers(page, load_exported(tmp_path / "int8.onnx")[0], description, photographs)
    export_model(model, description, tmp_path / "one.onnx", batch=1)
    assert main(["demo", str(tmp_path / "one.onnx"), *words]) == 1
    assert "an ONNX file with --batch dynamic" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_person_chooses_a_photograph_and_sees_where_the_model_looks(
    scheme: Any,
    demo: tuple[nn.Module, ModelDescription, Path],
    browser: Browser,
    photographs: list[Path],
    tmp_path: Path,
) -> None:
    phone = {"viewport": {"width": 390, "height": 800}, "color_scheme": scheme}
    with opened(browser, demo[2], **phone) as page:
        assert page.inner_text("h1") == "A <b> & c"
        assert page.inner_text("#status") == "Ready."
        page.set_input_files("#file", photographs[0])
        page.wait_for_selector("#answer:not([hidden])")
        names = page.locator("#classes li > span:first-child").all_inner_texts()
        assert set(names) == set(CLASSES)
        assert page.inner_text("#first") == names[0]
        assert " ms in this browser" in page.inner_text("#time")
        page.focus("#where")
        page.keyboard.press("Enter")
        page.wait_for_selector("#where[aria-pressed=true]")
        caption = page.inner_text("#caption")
        assert caption.startswith(("Covering the strongest part lowers", "No single part speaks for"))
        page.keyboard.press("Enter")
        page.wait_for_selector("#where[aria-pressed=false]")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        background, contrast, count = page.evaluate(CONTRAST, "h1, p, li span, figcaption")
        assert (background < 0.5) is (scheme == "dark")
        assert contrast > 4.5
        assert count > 10
        broken = tmp_path / "broken.jpg"
        broken.write_bytes(b"no photograph")
        page.set_input_files("#file", broken)
        page.wait_for_function(
            "document.getElementById('status').textContent.startsWith('This photograph cannot be read')"
        )


def test_a_photograph_that_is_chosen_while_the_model_loads_is_not_lost(
    demo: tuple[nn.Module, ModelDescription, Path], browser: Browser, photographs: list[Path]
) -> None:
    held: list[Route] = []
    with opened(browser, demo[2]) as page:
        page.route("**/model.onnx", lambda route: held.append(route))
        with page.expect_request("**/model.onnx"):
            page.reload(wait_until="commit")
        page.set_input_files("#file", photographs[0])
        assert page.locator("#answer").is_hidden()
        held[0].continue_()
        page.wait_for_selector("#answer:not([hidden])")


def test_the_runtime_is_downloaded_once_and_checked(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    console = Console(stderr=True)
    with serve(runtime, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        folder = runtime_files(address, console)
        server.shutdown()
    assert sorted(path.name for path in folder.iterdir()) == [
        "ort-wasm-simd-threaded.jsep.mjs", "ort-wasm-simd-threaded.jsep.wasm",
        "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm", "ort.wasm.min.mjs", "ort.webgpu.min.mjs",
    ]  # fmt: skip
    megabytes = round(sum(path.stat().st_size for path in folder.iterdir()) / 1e6)
    assert f"{megabytes} MB, and checks" in (Path(__file__).parents[2] / "docs" / "phone.md").read_text()
    assert runtime_files(address, console) == folder  # the server is gone
    (folder / "ort.wasm.min.mjs").write_text("something else")
    with pytest.raises(LocalViTError, match="cannot be downloaded"):
        runtime_files(address, console)
    with pytest.raises(LocalViTError, match="its SHA-256 differs"):
        runtime_files(str(folder), console)
    with pytest.raises(LocalViTError, match="is missing"):
        runtime_files(str(tmp_path), console)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with serve(tmp_path, 0) as server:
        port = server.server_address[1]
        with pytest.raises(LocalViTError, match=f"port {port} cannot be used"):
            serve(tmp_path, port)
