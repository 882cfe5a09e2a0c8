"""Starts processes that have imported what they need already, which saves seconds for each."""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

# A fork of this process would break PyTorch's threads and GPUs. A fork of a server that has only imported modules does
# not. Windows has no such server: there, each process imports everything anew.
_HAS_SERVER = "forkserver" in multiprocessing.get_all_start_methods()
_CONTEXT = multiprocessing.get_context("forkserver") if _HAS_SERVER else multiprocessing.get_context("spawn")
_STOP = (signal.SIGINT, signal.SIGTERM)


def prepare(module: str) -> None:
    """Start the server in the background, to import ``module`` while this process does something else."""
    if _HAS_SERVER:
        from multiprocessing.forkserver import ensure_running  # fails to import on Windows

        _CONTEXT.set_forkserver_preload([module])
        with _signals_blocked():
            ensure_running()


def start(
    function: Callable[..., None], *arguments: Any, module: str, daemon: bool
) -> tuple[BaseProcess, "Connection[Any, Any]"]:
    """Call ``function(connection, *arguments)`` in a new process.

    The process ignores Ctrl-C, which a terminal sends to all processes: whoever started it stops it, with SIGTERM.

    Args:
        function: a function of a module; its first argument is the process's end of the connection.
        arguments: the others, which must be picklable.
        module: what the server imports if this is its first process.
        daemon: whether the process ends with this one, and may not have processes of its own.

    Returns:
        The process, and this end of the connection. The connection ends when the process does.
    """
    prepare(module)
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=_call, args=(function, theirs, *arguments), daemon=daemon)
    with contextlib.closing(theirs):
        process.start()
    return process, ours


def _call(function: Callable[..., None], *arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP)
    function(*arguments)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block Ctrl-C and SIGTERM, also in processes started inside.

    The server stays deaf to them: it must outlive the processes that save their state after such a signal.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
