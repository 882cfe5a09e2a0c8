"""``localvit demo``."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse.typing import NonNegativeInt

from localvit.commands.parser import Parser, command_parser
from localvit.system.terminal import ERRORS, RESULTS

_DESCRIPTION = """Write a static page that classifies photographs in the browser, with the model and the runtime beside
it: drop a photograph or use the camera, see classes, time, and where the model looks. Any web server can host the
folder, GitHub Pages too."""


def parser() -> Parser:
    """Options of the command."""
    parser = command_parser("demo", "FILE [--output FOLDER] [--serve]", _DESCRIPTION)
    parser.add_argument(
        "file", type=str, help="weights of a run, hf-hub:USER/NAME, or an ONNX file of `localvit export`"
    )
    parser.add_argument("--output", type=str, default="demo", help="folder of the page")
    parser.add_argument("--title", type=str | None, default=None, help="heading of the page")
    parser.add_argument("--serve", action="store_true", help="open the page in the browser of this machine")
    parser.add_argument("--port", type=NonNegativeInt, default=0, help="port of --serve (default: a free one)")
    parser.add_argument("--model", type=str | None, default=None, help="model name, for files that do not contain it")
    parser.add_argument(
        "--runtime",
        type=str | None,
        default=None,
        help="folder or address of ONNX Runtime Web (default: the public one)",
    )
    return parser


def command(options: Any) -> Callable[[], int]:
    """Export, write the page, and serve it if asked."""
    import webbrowser

    from localvit.evaluation.demo import runtime_files, serve, write_demo
    from localvit.models.exported import export_model, load_any
    from localvit.models.exported.load import ExportedModel
    from localvit.models.weights.hub_files import name_of

    def demo() -> int:
        checkpoint, folder = Path(options.file), Path(options.output)
        model, description = load_any(options.file, name=options.model)
        if isinstance(model, ExportedModel) and (checkpoint.suffix != ".onnx" or model.batch is not None):
            raise ValueError(f"{checkpoint} cannot be shown; give a checkpoint, or an ONNX file with --batch dynamic")
        runtime = runtime_files(options.runtime, ERRORS)
        title = options.title or f"What is in this photograph? ({name_of(options.file)})"
        with tempfile.TemporaryDirectory() as name:
            exported = checkpoint
            if not isinstance(model, ExportedModel):
                exported = Path(name) / "model.onnx"
                with ERRORS.status("Exporting to ONNX"):
                    export_model(model, description, exported)
            page = write_demo(description, exported, folder, title=title, runtime=runtime)
        RESULTS.print(f"Page: {page.resolve()}", soft_wrap=True, highlight=False)
        if not options.serve:
            RESULTS.print("Open it with --serve, or put the folder on a web server.")
            return 0
        with serve(folder, options.port) as server:
            address = f"http://127.0.0.1:{server.server_address[1]}/"
            RESULTS.print(f"Serving {address} until Ctrl-C", soft_wrap=True, highlight=False)
            webbrowser.open(address)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                return 0
        return 0

    return demo
