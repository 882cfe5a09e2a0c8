"""Handwritten digits that come with scikit-learn: 1,797 real scans of 8 x 8 pixels, no download.

They are the test part of the UCI set "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998).
"""

from typing import Any

import lightning.pytorch as lightning
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from timm.data import create_transform
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from localvit.data.config import DataConfig

Sample = tuple[Tensor, int]


class Digits(Dataset[Sample]):
    """One part of the digits: grey images (1, 8, 8), normalised, and their class.

    The images keep the order of the file and the parts are cut from it without shuffling, so that neither depends on
    a seed.

    Args:
        train: whether it is the part to learn from, with augmentation, or the one held out, without.
        config: how the parts are cut and the images augmented.
    """

    def __init__(self, config: DataConfig, *, train: bool) -> None:
        pixels_MHW, labels_M = load_digits(return_X_y=True)
        pixels_MHW = np.round(pixels_MHW.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        cut = round(len(labels_M) * config.train_fraction)
        learned_MHW = pixels_MHW[:cut] / 255
        part = slice(None, cut) if train else slice(cut, None)
        images = [Image.fromarray(pixels_HW) for pixels_HW in pixels_MHW[part]]
        self.labels = labels_M[part].tolist()
        common: dict[str, Any] = {
            "input_size": (1, 8, 8),
            "interpolation": "bicubic",
            "mean": (float(learned_MHW.mean()),),
            "std": (float(learned_MHW.std()),),
            "color_jitter": None,
        }
        if train:
            self.images = images
            self.transform = create_transform(
                **common,
                is_training=True,
                scale=config.crop_scale,
                ratio=config.crop_ratio,
                hflip=0.0,  # a mirrored digit is another sign
                re_prob=config.random_erasing,
            )
        else:
            # Always the same tensors, so they are made once.
            self.images = list(map(create_transform(**common, is_training=False, crop_pct=1.0), images))
            self.transform = nn.Identity()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return self.transform(self.images[index]), self.labels[index]


class DigitsData(lightning.LightningDataModule):
    """The digits for Lightning; the order of the training images follows from seed and epoch alone.

    Args:
        config: parts and augmentation.
        batch_size: images a step; the remainder of an epoch that fills no batch is left out of it.
        seed: of the order of the training images.
    """

    num_classes = 10
    input_size = (1, 8, 8)

    def __init__(self, config: DataConfig, *, batch_size: int, seed: int) -> None:
        super().__init__()
        self.train_part = Digits(config, train=True)
        self.test_part = Digits(config, train=False)
        self.batch_size = batch_size
        self.seed = seed
        if batch_size > len(self.train_part):
            raise ValueError(
                f"batch_size is {batch_size}, more than the {len(self.train_part)} training images; "
                "make it smaller, or train_fraction larger"
            )

    def train_dataloader(self) -> DataLoader[Sample]:
        """Batches in an order that Lightning renews each epoch, through the sampler's ``set_epoch``."""
        order: DistributedSampler[Sample] = DistributedSampler(
            self.train_part, num_replicas=1, rank=0, shuffle=True, seed=self.seed
        )
        return DataLoader(self.train_part, self.batch_size, sampler=order, drop_last=True)

    def val_dataloader(self) -> DataLoader[Sample]:
        """The held-out part, in file order."""
        return DataLoader(self.test_part, batch_size=256)
