"""A static page that classifies photographs in the browser: the model, the runtime and the page in one folder.

ONNX Runtime Web computes the model in WebAssembly, or with WebGPU where that is faster. Nothing is fetched from
elsewhere when the page runs.
"""

import functools
import hashlib
import http.server
import json
import math
import os
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from rich.console import Console

from localvit.benchmark.look import render
from localvit.models.weights.model_description import ModelDescription
from localvit.system.errors import LocalViTError
from localvit.system.files import replacing, write_text
from localvit.system.progress import progress_bar

RUNTIME = "https://cdn.jsdelivr.net/npm/onnxruntime-web@1.22.0/dist"
_SCRIPTS = {"wasm": "ort.wasm.min.mjs", "webgpu": "ort.webgpu.min.mjs"}
_FILES = {  # their SHA-256
    "ort.wasm.min.mjs": "6ef726f355b791129f7ddf3f62e7877a16b9b777abe87004b8ab306e6b9cf265",
    "ort-wasm-simd-threaded.mjs": "30dd851d9c00622940500f71ddd2ff8820c5cb65270816080175b958705385a8",
    "ort-wasm-simd-threaded.wasm": "71aef04959c5c1b6de461b6538e2058e306610034a85aad2742d0c7fd4533fe4",
    "ort.webgpu.min.mjs": "e131e81c9324807e1e6f9103e8f8e936112827dcc9993cde9407a333b1f07ae0",
    "ort-wasm-simd-threaded.jsep.mjs": "1cbcba8f2c769c1eecbab66a1b1e55ef11704515bf4306373e3db3c37cf6dcd8",
    "ort-wasm-simd-threaded.jsep.wasm": "b45970d0632383a057c27ca5b660b216f8e00c17cf8db9f6207b5e4abc839368",
}
MODEL = "model.onnx"
_BLOCK = 2**16


def write_demo(description: ModelDescription, model: Path, folder: Path, *, title: str, runtime: Path) -> Path:
    """Write the page and what it needs.

    Args:
        description: of the model.
        model: an ONNX file of it for any number of images (``batch="dynamic"``).
        folder: the folder, created if needed.
        title: heading of the page.
        runtime: folder with the files of ONNX Runtime Web; see :func:`runtime_files`.

    Returns:
        The page.
    """
    for source, name in [(model, MODEL), *((runtime / name, name) for name in _FILES)]:
        with replacing(folder / name) as file, source.open("rb") as content:
            shutil.copyfileobj(content, file)
    page = folder / "index.html"
    values = {"title": title, "class_names": description.class_names, "settings": json.dumps(_settings(description))}
    write_text(page, render("demo.html", "localvit.evaluation", values))
    return page


def _settings(description: ModelDescription) -> dict[str, Any]:
    """What the page needs to know; its script prepares an image as :func:`evaluation_transform` does."""
    shown = description.input
    return {
        "classes": description.class_names,
        "size": shown.image_size,
        "resized": [math.floor(side / shown.crop_fraction) for side in shown.image_size],
        "channels": shown.channels,
        "mean": shown.mean,
        "std": shown.std,
        "interpolation": shown.interpolation,
        "model": MODEL,
        "runtimes": _SCRIPTS,
    }


def runtime_files(source: str | None, console: Console) -> Path:
    """A folder with the files of ONNX Runtime Web, which are downloaded once and checked.

    Args:
        source: a folder that has them, or the address to download them from. None for the public one.
        console: for the progress.

    Raises:
        LocalViTError: if a file is missing, is another one, or cannot be downloaded.
    """
    if source is not None and "://" not in source:
        for name in _FILES:
            _require_right(Path(source) / name, name)
        return Path(source)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "localvit" / "onnxruntime-web"
    for name, expected in _FILES.items():
        path = cache / name
        if not path.is_file() or _digest(path) != expected:
            _download(f"{(source or RUNTIME).rstrip('/')}/{name}", path, console)
            _require_right(path, name)
    return cache


def serve(folder: Path, port: int) -> http.server.ThreadingHTTPServer:
    """A server of a folder for browsers on this machine; ``serve_forever`` runs it.

    Args:
        folder: the folder.
        port: its port; 0 takes a free one.

    Raises:
        LocalViTError: if the port is taken.
    """
    try:
        return http.server.ThreadingHTTPServer(("127.0.0.1", port), functools.partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise LocalViTError(f"port {port} cannot be used: {error.strerror}; choose another with --port") from error


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Lets the runtime use threads, and tells browsers what WebAssembly is."""

    extensions_map = {  # noqa: RUF012  # the base class declares it so
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


def _download(address: str, path: Path, console: Console) -> None:
    try:
        with (
            urllib.request.urlopen(address, timeout=30) as response,  # noqa: S310  # the user's own address
            progress_bar(console, "bytes") as bar,
            replacing(path) as file,
        ):
            task = bar.add_task(path.name, total=int(response.headers.get("Content-Length") or 0) or None)
            while block := response.read(_BLOCK):
                file.write(block)
                bar.advance(task, len(block))
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise LocalViTError(
            f"{address} cannot be downloaded: {error}. With --runtime, give a folder that has {', '.join(_FILES)}"
        ) from error


def _require_right(path: Path, name: str) -> None:
    if not path.is_file():
        raise LocalViTError(f"{path} is missing, a file of ONNX Runtime Web 1.22.0")
    if _digest(path) != _FILES[name]:
        raise LocalViTError(f"{path} is not the file {name} of ONNX Runtime Web 1.22.0; its SHA-256 differs")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
