"""Calls a function in a new process, whose memory and settings nothing else has touched."""

import contextlib
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from localvit.system import processes
from localvit.system.errors import LocalViTError
from localvit.system.terminal import quiet


class ProcessError(LocalViTError):
    """A measuring process failed or was killed."""


def in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return ``function(*arguments)``, computed in a new process.

    Args:
        function: a function of a module, so that the process can import it.
        arguments: picklable.

    Raises:
        ProcessError: if the call raises, or the system kills the process, for example when out of memory.
    """
    try:
        process, connection = processes.start(_answer, function, arguments, module=function.__module__, daemon=True)
    except Exception as error:  # pickle raises many kinds
        raise ProcessError(f"{type(error).__name__}: {error}") from error
    with contextlib.closing(connection):
        try:
            failed, answer = connection.recv()
        except EOFError:
            failed, answer = True, "the measuring process was killed, probably out of memory"
    process.join()
    if failed:
        raise ProcessError(answer)
    return answer


def _answer(connection: "Connection[Any, Any]", function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    quiet()
    try:
        answer = (False, function(*arguments))
    except Exception as error:
        answer = (True, f"{type(error).__name__}: {error}")
    connection.send(answer)
