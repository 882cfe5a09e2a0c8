"""Commands of localvit in processes of their own, which have imported everything already and can be killed whole.

Starting Python and PyTorch takes seconds. A server that has imported them starts a command in milliseconds, and what
the command does from there on is what it does in a shell.
"""

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

_CONTEXT = multiprocessing.get_context("forkserver")
_MODULES = (
    "datasets",
    "localvit.models",
    "localvit.commands.cli",
    "localvit.commands.train",
    "localvit.commands.eval",
    "localvit.training.run_folder",
    "localvit.evaluation.report",
    "localvit.studies.study",
    "localvit.studies.running.local",
    "localvit.models.exported",
)
_PATIENCE = 300.0


class Command:
    """A command that runs in a process group of its own.

    Args:
        arguments: what follows ``localvit``.
        log: file for what it prints.
        largest_file: bytes that a file may have, as on a disk with that much room.
    """

    def __init__(self, arguments: Sequence[str], log: Path, *, largest_file: int | None = None) -> None:
        _CONTEXT.set_forkserver_preload([*_MODULES])
        self.arguments, self.log = arguments, log
        self.started = time.monotonic()
        self._process = _CONTEXT.Process(target=_call, args=([*arguments], log, largest_file))
        self._process.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.exitcode is None

    @property
    def process(self) -> int:
        """The number of its process."""
        assert self._process.pid is not None
        return self._process.pid

    def kill(self, *, children: bool = True) -> None:
        """Kill the process at once, as a system without memory does, and by default all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGKILL)
        if children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process, signal.SIGKILL)
        self._process.join()

    def end(self, seconds: float = _PATIENCE) -> int | None:
        """Wait until it ends. Returns its exit status, or None if it had to be killed after so many seconds."""
        self._process.join(seconds)
        if self.running:
            self.kill()
            return None
        return self._process.exitcode

    @property
    def printed(self) -> str:
        """What it has printed so far, on both streams."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def warm_up(log: Path) -> None:
    """Start the server, so that the first command is as fast as the others."""
    with Command(["--version"], log) as command:
        command.end()


def _call(arguments: list[str], log: Path, largest_file: int | None) -> None:
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # the server has left its own
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(output, stream)
    if largest_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does in a process of its own
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    # Loading processes give way to all others of the machine, and would wait for whatever else it does.
    os.nice = lambda increment: 0
    from localvit.commands.cli import main

    sys.argv = ["localvit", *arguments]
    sys.exit(main(arguments))
