"""Carries out items in processes side by side. A deadline ends the processes that are still at work."""

import contextlib
import faulthandler
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from multiprocessing.connection import Connection

import torch
import torch._inductor.config as compiler

from gpu_steps.running import ERROR, Item, Outcome, became, carry_out, cut, too_late
from localvit.benchmark.comparison import in_words
from localvit.system.machine import cores, share_of_cores
from localvit.system.terminal import quiet

_SPAWN = multiprocessing.get_context("spawn")  # a GPU that a process has used is out of reach of its forks
_COMPILE_THREADS = 4  # of each process; more of them would wait for each other
_SECONDS_TO_END = 5.0  # between the end of a process's connection and its own
_GRACE = 30.0  # seconds after which a process whose starter is gone ends itself


class Children:
    """Processes that take items from a list in order, each the next one as soon as it is free.

    An item whose process dies is an error, and the next item has a new process. A process leads a group, so that what
    it started ends with it.

    Args:
        processes: how many work side by side, at most. They share the cores.
    """

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._threads = ThreadPoolExecutor(processes)  # each waits for a process
        self._begun: dict[Future[Outcome], Item] = {}
        self._children: list[_Child] = []
        self._idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()
        self._lock, self._closed = threading.Lock(), False

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def begin(self, items: Sequence[Item], deadline: float) -> None:
        """Begin in the background. Who asks for the outcomes of the same items later waits for those still at work."""
        self._begun = {self._threads.submit(self._carry_out, item, deadline): item for item in items}

    def outcomes(self, items: Sequence[Item], deadline: float) -> Iterator[tuple[Item, Outcome]]:
        """Give each item as it ends, and end the processes after the last. Begins with the items if nothing has."""
        if not self._begun:
            self.begin(items, deadline)
        try:
            for future in as_completed(self._begun):
                yield self._begun[future], future.result()
        finally:
            self.close()

    def close(self) -> None:
        """End all processes, at work or not."""
        with self._lock:
            self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        idle: list[_Child] = []
        with contextlib.suppress(queue.Empty):
            while True:
                idle.append(self._idle.get_nowait())
        for child in idle:
            child.connection.close()  # which ends it by itself
        for child in idle:
            child.process.join(_SECONDS_TO_END)
        for child in self._children:
            child.end()

    def _carry_out(self, item: Item, deadline: float) -> Outcome:
        start = time.monotonic()
        if late := too_late(deadline):
            return late
        try:
            child = self._free(deadline)
            try:
                found = child.carry_out(item, deadline)
            except EOFError:
                return became(ERROR, f"its process {child.ended()}", time.monotonic() - start)
        except Exception as error:  # pickle raises many kinds
            return became(ERROR, in_words(error), time.monotonic() - start)
        if found is None:
            child.end()
            return cut(start)
        self._idle.put(child)
        return found

    def _free(self, deadline: float) -> "_Child":
        """A process that has nothing to do."""
        with contextlib.suppress(queue.Empty):
            return self._idle.get_nowait()
        with self._lock:
            if self._closed:
                raise RuntimeError("the processes were ended")
            child = _Child(share_of_cores(self.processes), deadline)
            self._children.append(child)
        return child


class _Child:
    """A process that carries out one item after the other, with so many threads."""

    def __init__(self, threads: int, deadline: float) -> None:
        self.connection, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_work, args=(theirs, threads, deadline), daemon=True)
        with contextlib.closing(theirs):
            self.process.start()
        self._at_work = True

    def carry_out(self, item: Item, deadline: float) -> Outcome | None:
        """What became of an item; None if it still goes on at the deadline.

        Raises:
            EOFError: if the process ended.
        """
        try:
            self.connection.send(item)
            if not self.connection.poll(max(0.0, deadline - time.monotonic())):
                return None
            found: Outcome = self.connection.recv()
        except ConnectionError as error:
            raise EOFError from error
        return found

    def end(self) -> None:
        """End the process and what it started."""
        if self._at_work:
            self._at_work = False
            assert self.process.pid is not None
            with contextlib.suppress(ProcessLookupError, PermissionError):  # there is no such group (yet)
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()
        self.process.join()

    def ended(self) -> str:
        """How the process ended by itself."""
        self.process.join(_SECONDS_TO_END)
        status = self.process.exitcode
        self.end()
        return f"ended with status {status}, negative for a signal; perhaps memory ran out"


def _work(connection: "Connection[Outcome, Item]", threads: int, deadline: float) -> None:
    os.setsid()
    faulthandler.dump_traceback_later(max(0.0, deadline - time.monotonic()) + _GRACE, exit=True)
    quiet()
    torch.set_num_threads(min(threads, torch.get_num_threads()))
    if "TORCHINDUCTOR_COMPILE_THREADS" not in os.environ:
        compiler.compile_threads = min(_COMPILE_THREADS, cores())
    with contextlib.suppress(EOFError, ConnectionError):  # nobody waits for it any more
        while True:
            connection.send(carry_out(connection.recv()))
