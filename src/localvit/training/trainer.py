"""Lightning's trainer for a run: processes, precision and loggers."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import distributed

from localvit.system.errors import LocalViTError
from localvit.training.checkpointing import AtomicCheckpointIO
from localvit.training.config import HardwareConfig, RunConfig


def build_trainer(config: RunConfig, folder: Path, callbacks: Sequence[Callback]) -> lightning.Trainer:
    """The trainer for ``config``, which logs to ``folder``."""
    training, hardware = config.training, config.hardware
    loggers = _loggers(config, folder)
    if loggers:
        callbacks = [*callbacks, LearningRateMonitor("step")]
    return lightning.Trainer(
        max_epochs=training.total_epochs,
        check_val_every_n_epoch=training.evaluate_every or training.total_epochs,
        precision=hardware.precision,
        gradient_clip_val=training.gradient_clip or None,
        accumulate_grad_batches=training.accumulate,
        sync_batchnorm=hardware.sync_batch_norm,
        callbacks=[*callbacks],
        plugins=[AtomicCheckpointIO()],
        logger=loggers,
        log_every_n_steps=config.logging.every_steps,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **processes(hardware),
    )


def processes(hardware: HardwareConfig) -> dict[str, Any]:
    """Lightning's arguments for devices and processes; torchrun decides on them if it started this process.

    Raises:
        LocalViTError: for SyncBatchNorm without a GPU, which PyTorch does not support.
    """
    on_gpu = hardware.accelerator in ("cuda", "gpu") or (hardware.accelerator == "auto" and torch.cuda.is_available())
    if hardware.sync_batch_norm and not on_gpu:
        raise LocalViTError(
            "hardware.sync_batch_norm needs GPUs; PyTorch cannot share batch-norm statistics on other devices"
        )
    if distributed.is_torchelastic_launched():
        devices, nodes = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["GROUP_WORLD_SIZE"])
        _rejoin_after_restart("nccl" if on_gpu else "gloo", nodes)
    else:
        nodes = int(os.environ.get("SLURM_NNODES", 1))
        devices = hardware.devices if hardware.devices != "auto" else torch.cuda.device_count() if on_gpu else 1
    return {
        "accelerator": hardware.accelerator,
        "devices": devices,
        "num_nodes": nodes,
        # Otherwise PyTorch sorts gradients anew after the first step, which changes the order in which those of more
        # than two processes add up, and a run that goes on after a fault would differ in the last bits.
        "strategy": "ddp_find_unused_parameters_true" if devices * nodes > 1 else "auto",
    }


def _rejoin_after_restart(backend: str, nodes: int) -> None:
    """Let processes that torchrun restarted find each other under a fresh prefix of the store.

    On one machine, restarted processes reuse the store and may find addresses of dead processes in it. Across machines,
    torchrun creates a new store, and restart counts differ.
    """
    restart = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    if restart and nodes == 1 and not distributed.is_initialized():
        store, rank, world_size = next(distributed.rendezvous("env://"))
        store = distributed.PrefixStore(f"restart {restart}", store)
        distributed.init_process_group(backend, store=store, rank=rank, world_size=world_size)


def is_first_process() -> bool:
    """Whether this process of a run writes files; known before the processes have joined."""
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]  # Lightning sets it from the environment
    return rank == 0


def _loggers(config: RunConfig, folder: Path) -> list[Logger]:
    loggers: list[Logger] = []
    if config.logging.tensorboard:
        loggers.append(TensorBoardLogger(folder, name="tensorboard", version=""))
    if config.logging.wandb_project is not None:
        try:
            logger = WandbLogger(folder.name, folder, project=config.logging.wandb_project, id=config.key())
        except ModuleNotFoundError:
            raise LocalViTError("logging.wandb_project needs Weights & Biases: pip install localvit[wandb]") from None
        loggers.append(logger)
    return loggers
