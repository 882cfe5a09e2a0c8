"""The ``localvit`` command: finds the module of a command and turns its errors into messages and exit statuses."""

import importlib
import signal
import sys

from localvit.commands.parser import Parser, command_parser
from localvit.system.errors import Interrupted, LocalViTError
from localvit.system.machine import keep_memory
from localvit.system.quiet import quiet
from localvit.system.terminal import ERRORS

COMMANDS = {
    "train": "train a model and keep all of the run in a folder",
    "eval": "accuracy, loss and confusion matrix of a checkpoint",
    "predict": "classify images and folders of images",
    "study": "run a controlled experiment and write its report",
    "report": "write the report of studies anew, or one for several",
    "models": "list the models of the paper with their costs",
    "bench": "measure speed and memory of models on this machine",
    "convert": "convert a checkpoint from the authors' form or to it",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line ``arguments``, this process's own by default, and return the exit status."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name not in COMMANDS:
        _parse_without_command([name, *rest])
    module = importlib.import_module(f"localvit.commands.{name}")
    keep_memory()
    quiet()  # after Lightning was imported, which sets its own level
    parser: Parser = module.parser()
    try:
        parsed = parser.parse_args(getattr(module, "arguments", list)(rest))
        command = module.command(parser.instantiate(parsed))
    except ValueError as error:
        parser.error(str(error))
    try:
        status: int = command()
    except (LocalViTError, ValueError, OSError) as error:
        ERRORS.print(f"[bold red]localvit {name}:[/] ", end="")
        ERRORS.print(str(error), highlight=False, soft_wrap=True, markup=False)
        return 1
    except Interrupted as interruption:
        ERRORS.print(f"{interruption}; the state is saved, and the same command goes on.")
        return 128 + interruption.signal_number
    except KeyboardInterrupt:
        ERRORS.print("Interrupted. What was finished is kept; the same command goes on.")
        return 128 + signal.SIGINT
    return status


def _parse_without_command(arguments: list[str]) -> None:
    """Show the commands, or say that there is no such one; exits."""
    parser = command_parser("", "COMMAND ...", "Locality in vision transformers.")
    commands = parser.add_subcommands(dest="command", required=True)
    for name, help_text in COMMANDS.items():
        commands.add_subcommand(name, command_parser(name, "...", help_text), help=help_text)
    parser.parse_args(arguments)
