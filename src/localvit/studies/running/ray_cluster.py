"""Trains runs on a Ray cluster, which finds a machine for each run, and another one if that machine is lost."""

import contextlib
import importlib
import os
import socket
import time
import warnings
from pathlib import Path
from typing import Any, Self

from localvit.studies.config import Resources, StudyRun
from localvit.studies.running.worker import ALONE, train
from localvit.system.errors import Interrupted, LocalViTError
from localvit.training import RunConfig

_SECONDS_TO_CONNECT = 10.0
_SECONDS_TO_SAVE = 30.0
# Enough for machines that come and go, yet a run that crashes every process must end.
_RETRIES = 20
_AT_A_TIME = 10_000


class _MachineGoes(Exception):
    """The machine of a run is shutting down, as it said with SIGTERM. The run has saved its state."""


class RayBackend:
    """Trains each run in a Ray task. Ray queues the tasks and spreads them over the machines.

    If a machine or process is lost, its run resumes from its checkpoint, on another machine if necessary. Therefore all
    machines, including this one, must share the storage of the run folders under the same path, and have the same
    version of this project installed. Relative paths in a configuration, such as ``data.root``, start from the current
    folder of this process if it exists on the other machine; otherwise paths must be absolute.

    Args:
        address: ``HOST:PORT`` of the cluster, ``auto`` on one of its machines, or ``local`` for this machine only.
        resources: of each run.

    Raises:
        LocalViTError: if Ray is not installed or no cluster answers.
    """

    def __init__(self, address: str, resources: Resources) -> None:
        try:
            self._ray: Any = importlib.import_module("ray")
        except ModuleNotFoundError:
            raise LocalViTError("--ray needs Ray: pip install localvit[ray]") from None
        self._address, self._resources = address, resources
        self._runs: dict[Any, StudyRun] = {}

    def __enter__(self) -> Self:
        try:
            _require_listener(self._address)
            self._ray.init(self._address, log_to_driver=False, logging_level="ERROR")
        except (OSError, RuntimeError, ValueError, self._ray.exceptions.RayError) as error:
            raise LocalViTError(
                f"no Ray cluster answers at {self._address}: {error}. `ray status` on one of its machines shows "
                "whether it is running; `ray start --head` starts one"
            ) from error
        self._warn_if_nothing_fits()
        options: dict[str, Any] = {
            "num_cpus": self._resources.cpus,
            "num_gpus": self._resources.gpus,
            "scheduling_strategy": "SPREAD",
            "max_retries": _RETRIES,
            "retry_exceptions": [_MachineGoes],
            "runtime_env": {"env_vars": ALONE},
        }
        if self._resources.memory_gib:
            options["memory"] = round(self._resources.memory_gib * 2**30)
        self._task = self._ray.remote(**options)(_train)
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def free(self) -> int:
        """Number of runs that may start now. Ray queues them."""
        return _AT_A_TIME - len(self._runs)

    def start(self, run: StudyRun) -> None:
        """Queue a run."""
        task = self._task.options(name=run.folder.name)
        self._runs[task.remote(run.config, run.folder.resolve(), Path.cwd(), self._resources.cpus)] = run

    def ended(self, seconds: float = 0.0) -> list[tuple[StudyRun, str | None]]:
        """Wait up to ``seconds`` until a run ends. Returns the runs that have ended, and the errors of failed ones."""
        if not self._runs:
            time.sleep(seconds)
            return []
        self._ray.wait([*self._runs], timeout=seconds)
        done, _ = self._ray.wait([*self._runs], num_returns=len(self._runs), timeout=0)
        return [(self._runs.pop(reference), self._error(reference)) for reference in done]

    def stop(self) -> None:
        """Leave the cluster, which ends the runs. They have half a minute to save their state."""
        if not self._ray.is_initialized():
            return
        try:
            for reference in self._runs:
                self._ray.cancel(reference)
            if self._runs:
                self._ray.wait([*self._runs], num_returns=len(self._runs), timeout=_SECONDS_TO_SAVE)
        finally:
            self._runs.clear()
            self._ray.shutdown()

    def _error(self, reference: Any) -> str | None:
        try:
            error: str | None = self._ray.get(reference)
        except self._ray.exceptions.RayError as lost:
            return f"Ray gave the run up ({type(lost).__name__}): {lost}"
        return error

    def _warn_if_nothing_fits(self) -> None:
        cpus, gpus, gib = self._resources.cpus, self._resources.gpus, self._resources.memory_gib
        wanted = {"CPU": cpus, "GPU": gpus, "memory": gib * 2**30}
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(all(has.get(name, 0) >= amount for name, amount in wanted.items()) for has in machines):
            warnings.warn(
                f"no machine of the Ray cluster has {cpus} cores, {gpus:g} GPUs and {gib:g} GiB for a run; the runs "
                "wait until such a machine joins",
                stacklevel=3,
            )


def _require_listener(address: str) -> None:
    """Raise ``OSError`` if nothing listens at ``HOST:PORT``, because Ray would retry for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_CONNECT).close()


def _train(config: RunConfig, folder: Path, current: Path, threads: int) -> str | None:
    with contextlib.chdir(current) if os.access(current, os.X_OK) else contextlib.nullcontext():
        try:
            return train(config, folder, threads)
        except Interrupted as interrupted:
            raise _MachineGoes(str(interrupted)) from None
