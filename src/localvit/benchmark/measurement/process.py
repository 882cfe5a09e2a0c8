"""A call in a process of its own, whose memory and settings nothing else has touched."""

import contextlib
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from localvit.system.errors import LocalViTError
from localvit.system.terminal import quiet


class ProcessError(LocalViTError):
    """A process that measures ended with an error, or was killed."""


def in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What ``function(*arguments)`` gives in a process of its own.

    The process is forked from one that has imported the function's module and done nothing yet.

    Args:
        function: of a module, so that the process can import it.
        arguments: which can be pickled.

    Raises:
        ProcessError: where the call raises, or the process is killed, for want of memory for example.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, function, arguments), daemon=True)
    try:
        process.start()
    except Exception as error:  # pickle meets what it cannot pickle with errors of many kinds
        raise ProcessError(f"{type(error).__name__}: {error}") from error
    theirs.close()
    with contextlib.closing(ours):
        try:
            failed, answer = ours.recv()
        except EOFError:
            failed, answer = True, "the process that measures was killed, perhaps for want of memory"
    process.join()
    if failed:
        raise ProcessError(answer)
    return answer


def _answer(connection: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    quiet()
    try:
        answer = (False, function(*arguments))
    except Exception as error:
        answer = (True, f"{type(error).__name__}: {error}")
    connection.send(answer)
