"""Nothing is lost: runs are killed, interrupted, starved of disk and of a process, and end with the same weights."""

import importlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from filelock import FileLock
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from localvit import LocalityConfig
from localvit.data import AugmentationConfig, DataConfig, InputConfig
from localvit.system.errors import Interrupted, LocalViTError
from localvit.training import HardwareConfig, LoggingConfig, ModelConfig, RunConfig, TrainingConfig, read_result, run
from localvit.training.checkpointing import AtomicCheckpointIO, CheckpointError

# All that is drawn at random: order, crops, erasing, mixing, stochastic depth. A checkpoint after every step.
CONFIG = RunConfig(
    model=ModelConfig(
        "deit_tiny_patch16_224",
        {"patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2, "drop_path_rate": 0.2},
        locality=LocalityConfig(),
    ),
    data=DataConfig(source="digits", held_out=0.25),
    input=InputConfig((8, 8), 1, (0.3,), (0.37,), crop_fraction=1.0),
    augmentation=AugmentationConfig(policy=None),
    training=TrainingConfig(
        epochs=3,
        cooldown_epochs=1,
        warmup_epochs=1,
        batch_size=64,
        learning_rate=3e-3,
        ema_decay=0.9,
        accumulate=2,
        checkpoint_minutes=1e-6,
    ),
    hardware=HardwareConfig(accelerator="cpu", threads=1, workers=0),
    logging=LoggingConfig(tensorboard=False),
)
WEIGHTS = ("last.safetensors", "last_average.safetensors", "best.safetensors")


def weights(folder: Path) -> dict[str, dict[str, Tensor]]:
    return {name: safetensors.torch.load_file(folder / name) for name in WEIGHTS}


def assert_equal(one: Path, other: Path) -> None:
    """Two runs ended with the same bits."""
    assert read_result(one) == read_result(other)
    for name, tensors in weights(one).items():
        others = weights(other)[name]
        assert tensors.keys() == others.keys()
        for key, tensor in tensors.items():
            assert torch.equal(tensor, others[key]), f"{name}: {key}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(CONFIG, folder)
    return folder


@pytest.mark.parametrize("minutes", [1e-6, 60.0])
def test_a_folder_removed_while_a_run_trains_is_not_left_with_half_a_run(
    minutes: float, whole: Path, tmp_path: Path
) -> None:
    config = replace(CONFIG, training=replace(CONFIG.training, checkpoint_minutes=minutes))
    with pytest.raises(LocalViTError, match="run was removed while the run trained"):
        run(config, tmp_path / "run", on_epoch=lambda epoch: shutil.rmtree(tmp_path / "run", ignore_errors=True))
    assert read_result(tmp_path / "run") is None
    run(config, tmp_path / "run")
    assert_equal(tmp_path / "run", whole)
    names = {path.name for path in whole.iterdir()} - {".lock"}
    assert names <= {path.name for path in (tmp_path / "run").iterdir()}


def _run(folder: Path) -> None:
    run(CONFIG, folder)


@pytest.fixture(scope="module")
def processes() -> Any:
    """Starts processes that have imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["localvit.training.run_folder"])
    return context


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(
    kills: int, whole: Path, processes: Any, tmp_path: Path
) -> None:
    moments = np.random.default_rng(0)
    while_writing = 0
    for kill in range(kills):
        process = processes.Process(target=_run, args=(tmp_path,))
        process.start()
        before = (tmp_path / "last.ckpt").stat().st_mtime_ns if (tmp_path / "last.ckpt").exists() else 0
        _wait_until(lambda: _newer(tmp_path / "last.ckpt", before), process)  # noqa: B023
        time.sleep(moments.uniform(0, 0.1))
        if kill % 2:  # in the middle of writing
            _wait_until(lambda: any(tmp_path.glob(".last.ckpt.*.tmp")), process)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        while_writing += any(tmp_path.glob(".last.ckpt.*.tmp"))
        torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert while_writing >= kills // 4
    assert read_result(tmp_path) is None, "it was finished before it was killed so often"
    run(CONFIG, tmp_path)
    assert_equal(tmp_path, whole)
    assert not any(tmp_path.glob(".*.tmp"))
    assert not (tmp_path / "last.ckpt").exists()


def _newer(path: Path, than: int) -> bool:
    try:
        return path.stat().st_mtime_ns > than
    except FileNotFoundError:
        return False


def _wait_until(condition: Any, process: Any, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.is_alive(), "it ended by itself"
        assert time.monotonic() < end
        time.sleep(0.0005)


class _Interruption(Exception):
    """Ends a run without a word."""


class _InterruptAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise _Interruption


def test_a_run_in_mixed_precision_that_is_interrupted_ends_with_the_same_bits(tmp_path: Path) -> None:
    config = replace(CONFIG, hardware=replace(CONFIG.hardware, precision="bf16-mixed", fused_attention=False))
    run(config, tmp_path / "whole")
    with pytest.raises(_Interruption):
        run(config, tmp_path / "run", callbacks=[_InterruptAt(25)])
    run(config, tmp_path / "run")
    assert_equal(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("step", [pytest.param(7, marks=pytest.mark.slow), 25])
def test_loading_processes_change_nothing_also_where_an_epoch_goes_on_in_its_middle(
    step: int, whole: Path, tmp_path: Path
) -> None:
    """The run that was never interrupted read its images itself."""
    config = replace(CONFIG, hardware=replace(CONFIG.hardware, workers=2))
    with pytest.raises(_Interruption):
        run(config, tmp_path, callbacks=[_InterruptAt(step)])
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == step
    run(config, tmp_path)
    assert_equal(tmp_path, whole)


def test_a_finished_run_is_read_and_not_repeated(whole: Path) -> None:
    assert run(CONFIG, whole, callbacks=[_InterruptAt(0)]) == read_result(whole)


@pytest.mark.parametrize("content", ["", "[]", '{"parameters": 1, "macs": 1, "epochs": []}', "[" * 100_000])
def test_a_damaged_result_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(LocalViTError, match=r"result\.json is not the result of a run: "):
        read_result(tmp_path)


@pytest.mark.parametrize("content", ["a: [1", "[]", "model: 3", "a: !!python/name:os.system"])
def test_damaged_settings_are_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"config\.yaml (is not valid YAML|holds no settings of a run): "):
        run(CONFIG, tmp_path)


@pytest.mark.parametrize("place", ["broken_images", "state_dict", "optimizer_states", "a moment"])
def test_a_state_of_something_else_is_named(place: str, tmp_path: Path) -> None:
    def stop(_: object) -> None:
        raise Interrupted(signal.SIGTERM)

    with pytest.raises(Interrupted):
        run(CONFIG, tmp_path, on_epoch=stop)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    if place == "a moment":
        del state["optimizer_states"][0]["state"][0]["exp_avg_sq"]
    torch.save(state | ({} if place == "a moment" else {place: None}), tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"the run cannot go on from .*last\.ckpt \("):
        run(CONFIG, tmp_path)


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("localvit.training.run_folder"), "_SECONDS_FOR_LOCK", 0.1)
    with FileLock(tmp_path / ".lock"), pytest.raises(LocalViTError, match="another process trains in"):
        run(CONFIG, tmp_path)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The run as a file, with a longer course."""
    path = tmp_path / "recipe.yaml"
    settings = replace(CONFIG, training=replace(CONFIG.training, epochs=400, checkpoint_minutes=10)).to_dict()
    path.write_text(yaml.safe_dump(settings))
    return path


def _start(recipe: Path, folder: Path, *arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [*(launcher or (sys.executable,)), "-m", "localvit", "train", "--config", str(recipe)]
    return subprocess.Popen(
        [*command, "--output", str(folder), *arguments],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # What a shell starts in the background ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_the_state_and_stops_within_seconds(
    number: signal.Signals, recipe: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    process = _start(recipe, folder, "--hardware.workers", "2")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            break
    start = time.monotonic()
    os.killpg(process.pid, number)  # as a terminal does: to the loading processes too
    printed = process.stderr.read()
    assert process.wait(timeout=20) == 128 + number, printed
    assert time.monotonic() - start < 5
    assert f"Stopped by {number.name}; the state is saved" in printed
    state = torch.load(folder / "last.ckpt", weights_only=True)
    assert state["global_step"] > 0
    assert not (folder / "result.json").exists()


class _SignalAt(Callback):
    """Asks the process to stop at a moment after which Lightning itself would end it."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, self._stop)
        self.stopped = False

    def _stop(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        if trainer.current_epoch == 1 and not self.stopped:
            self.stopped = True
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    "hook",
    [
        "on_validation_end",
        pytest.param("on_validation_epoch_end", marks=pytest.mark.slow),
        pytest.param("on_before_zero_grad", marks=pytest.mark.slow),
    ],
)
def test_a_signal_at_any_moment_is_reported_and_costs_nothing(hook: str, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(CONFIG, tmp_path, callbacks=[_SignalAt(hook)])
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] > 0
    run(CONFIG, tmp_path)
    assert_equal(tmp_path, whole)


def test_a_full_disk_stops_the_run_and_keeps_the_last_checkpoint(processes: Any, tmp_path: Path) -> None:
    outcome = processes.Queue()
    process = processes.Process(target=_run_out_of_space, args=(tmp_path, outcome))
    process.start()
    message = outcome.get(timeout=300)
    process.join()
    assert "cannot be written" in message
    assert "The previous one is kept" in message
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] > 0
    assert not any(tmp_path.glob(".last.ckpt.*.tmp"))


def _run_out_of_space(folder: Path, outcome: Any) -> None:
    """A limit on the size of files is what a process without a disk of its own can have of a full one."""
    from lightning.pytorch.callbacks import Callback

    class FullAfterSomeSteps(Callback):
        def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 4:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    try:
        run(CONFIG, folder, callbacks=[FullAfterSomeSteps()])
        outcome.put("no error")
    except LocalViTError as error:
        outcome.put(str(error))


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    storage = AtomicCheckpointIO()
    storage.save_checkpoint({"step": torch.tensor(1)}, path)
    with pytest.raises(CheckpointError, match="cannot be written"):
        storage.save_checkpoint({"step": torch.tensor(2), "broken": _CannotBePickled()}, path)
    assert storage.load_checkpoint(path) == {"step": torch.tensor(1)}
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]


class _CannotBePickled:
    def __reduce__(self) -> Any:
        raise OSError(28, "No space left on device")


@pytest.mark.slow
def test_torchrun_restarts_both_processes_when_one_is_killed(tmp_path: Path) -> None:
    """Both go on from the last checkpoint, and end with the bits of a run of two that nobody killed."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(CONFIG.to_dict()))
    torchrun: tuple[str, ...] = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
    torchrun += ("--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0")
    undisturbed = _start(path, tmp_path / "whole", launcher=(*torchrun, "--max-restarts", "0"))
    assert undisturbed.stderr is not None
    printed = undisturbed.stderr.read()
    assert undisturbed.wait() == 0, printed

    folder = tmp_path / "killed"
    process = _start(path, folder, launcher=(*torchrun, "--max-restarts", "3"))
    assert process.stderr is not None
    for line in process.stderr:
        if "epoch 1/" in line:
            break
    victims = _ranks(process.pid)
    os.kill(victims[1], signal.SIGKILL)
    printed = process.stderr.read()
    assert process.wait(timeout=300) == 0, printed
    assert_equal(folder, tmp_path / "whole")
    starts = json.loads((folder / "record.json").read_text())["starts"]
    assert len(starts) == 2
    assert all(start["processes"] == 2 for start in starts)


def _ranks(agent: int) -> list[int]:
    children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    return sorted(int(child) for child in children if "localvit" in Path(f"/proc/{child}/cmdline").read_text())
