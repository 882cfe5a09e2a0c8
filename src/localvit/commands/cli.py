"""The ``localvit`` command line: runs the module of a command, and turns errors into messages and exit statuses."""

import importlib
import signal
import sys
from importlib import metadata

from localvit.commands.parser import Parser
from localvit.system import processes
from localvit.system.errors import Interrupted, LocalViTError
from localvit.system.machine import keep_memory
from localvit.system.suggestions import did_you_mean
from localvit.system.terminal import ERRORS, RESULTS, quiet

COMMANDS = {
    "train": "train a model and keep everything about the run in a folder",
    "eval": "compute accuracy, loss and confusion matrix of a checkpoint",
    "predict": "classify images and folders of images",
    "study": "run a controlled experiment and write its report",
    "report": "rewrite the report of a study, or combine several studies",
    "analyze": "look inside models: attention, receptive fields, frequencies, kernels, robustness",
    "models": "list the models of the paper with their costs",
    "bench": "measure speed and memory of models on this machine",
    "convert": "convert checkpoints to and from the authors' format",
    "export": "export a model to ONNX, OpenVINO or PyTorch's ahead-of-time compiler",
    "demo": "write a web page that classifies photographs in the browser",
    "push": "publish a model on the Hugging Face hub",
    "pull": "download a model from the Hugging Face hub",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line ``arguments``, by default those of this process, and return the exit status."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name not in COMMANDS:
        return _without_command(name)
    module = importlib.import_module(f"localvit.commands.{name}")
    if not rest and hasattr(module, "listing"):
        module.listing()
        return 0
    parser: Parser = module.parser()
    try:
        parsed = parser.parse(getattr(module, "arguments", list)(rest))
        if hasattr(module, "WORKER"):
            processes.prepare(module.WORKER)  # it imports PyTorch while this process does
        importlib.import_module("localvit.models")  # registers them with timm
        command = module.command(parsed)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    keep_memory()
    quiet()
    try:
        status: int = command()
    except (LocalViTError, ValueError, OSError) as error:
        ERRORS.print(f"[bold red]localvit {name}:[/] ", end="")
        ERRORS.print(str(error), soft_wrap=True, markup=False)
        return 1
    except Interrupted as interruption:
        ERRORS.print(f"{interruption}; the state is saved. Run the same command again to resume.")
        return 128 + interruption.signal_number
    except KeyboardInterrupt:
        ERRORS.print("Interrupted. Finished work is kept; run the same command again to resume.")
        return 128 + signal.SIGINT
    return status


def _without_command(given: str) -> int:
    if given in ("-h", "--help"):
        RESULTS.print("usage: localvit COMMAND ...\n\nLocality in vision transformers.\n")
        for name, description in COMMANDS.items():
            RESULTS.print(f"  {name:<10}{description}")
        RESULTS.print("\n`localvit COMMAND --help` lists the options of a command.")
        return 0
    if given == "--version":
        RESULTS.print(f"localvit {metadata.version('localvit')}")
        return 0
    hint = did_you_mean(given, COMMANDS)
    message = f"error: {given!r:.100} is not a command.{hint} The commands are {', '.join(COMMANDS)}."
    ERRORS.print(message, markup=False, soft_wrap=True)
    return 2
