"""Processes that load images, when the training process is asked to stop."""

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection

import pytest

from localvit.data import workers


def serve(connection: "Connection[bool, bool]") -> None:
    workers.loader_options(1)["worker_init_fn"](0)
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    connection.send(True)
    connection.recv()  # would wait forever


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="Windows ends processes without a signal")
def test_a_worker_goes_on_after_sigterm_and_ends_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_GRACE_SECONDS", 1)
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=serve, args=(there,))
    process.start()
    assert here.poll(60)
    assert here.recv()
    process.join(60)
    assert process.exitcode == -signal.SIGALRM
