"""A training run of a second or two, for tests that train many."""

from typing import Any

RECIPE: dict[str, Any] = {
    "model": {
        "name": "deit_tiny_patch16_224",
        "arguments": {"patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 2},
    },
    "data": {"source": "digits", "held_out": 0.5, "train_images": 512, "val_images": 128},
    "input": {"image_size": [8, 8], "channels": 1, "mean": [0.3], "std": [0.37], "crop_fraction": 1.0},
    "augmentation": {"horizontal_flip": 0, "policy": None, "color_jitter": 0, "random_erasing": 0, "repeats": 1}
    | {"mixup": 0, "cutmix": 0},
    "training": {"epochs": 3, "cooldown_epochs": 0, "warmup_epochs": 1, "batch_size": 64, "learning_rate": 0.003}
    | {"learning_rate_images": None, "ema_decay": 0, "checkpoint_minutes": 0.003},
    "hardware": {"accelerator": "cpu", "threads": 1, "workers": 0},
    "logging": {"tensorboard": False},
}
