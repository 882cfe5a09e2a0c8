"""Augmentation in training: of each image in the loader processes, then of the whole batch on the device."""

from collections.abc import Callable

import torch
from PIL import Image
from timm.data import Mixup, create_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor, nn
from torchvision import transforms

from localvit.data.config import AugmentationConfig, InputConfig


def training_transform(shown: InputConfig, augmentation: AugmentationConfig) -> Callable[[Image.Image], Tensor]:
    """Random crop, flip and policy: an image becomes pixels (C, H, W), uint8 from 0 to 255."""
    crop_and_flip, augment, _ = create_transform(
        separate=True,
        input_size=(shown.channels, *shown.image_size),
        is_training=True,
        scale=augmentation.crop_scale,
        ratio=augmentation.crop_ratio,
        hflip=augmentation.horizontal_flip,
        auto_augment=augmentation.policy,
        color_jitter=augmentation.color_jitter or None,  # type: ignore[arg-type]  # None disables it
        interpolation=shown.interpolation,
        mean=shown.mean,
        std=shown.std,
    )
    geometry = crop_and_flip.transforms
    if augmentation.crop_padding:
        geometry[:1] = [
            transforms.Resize(shown.image_size, transforms.InterpolationMode(shown.interpolation)),
            transforms.RandomCrop(shown.image_size, padding=augmentation.crop_padding),
        ]
    # timm's last part would normalize and erase here. Bytes are cheaper to send between processes, and the device does
    # the rest for the whole batch.
    pipeline: Callable[[Image.Image], Tensor] = transforms.Compose(
        [*geometry, *augment.transforms, transforms.PILToTensor()]
    )
    return pipeline


def training_pixels(shown: InputConfig, augmentation: AugmentationConfig) -> Callable[[Image.Image], Tensor]:
    """The part of :func:`training_transform` in which nothing is random, as uint8 (C, H, W)."""
    resize = transforms.Resize(shown.image_size, transforms.InterpolationMode(shown.interpolation))
    fixed = [resize] if augmentation.crop_padding else []
    pipeline: Callable[[Image.Image], Tensor] = transforms.Compose([*fixed, transforms.PILToTensor()])
    return pipeline


class BatchAugmentation(nn.Module):
    """Normalizes a batch, erases rectangles and mixes its images.

    Args:
        shown: gives mean and standard deviation.
        augmentation: gives erasing, mixup and CutMix.
        num_classes: number of classes K.
        label_smoothing: label smoothing of mixed targets.
    """

    mean_C11: Tensor
    std_C11: Tensor

    def __init__(
        self, shown: InputConfig, augmentation: AugmentationConfig, *, num_classes: int, label_smoothing: float
    ) -> None:
        super().__init__()
        self.register_buffer("mean_C11", 255 * torch.tensor(shown.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std_C11", 255 * torch.tensor(shown.std).view(-1, 1, 1), persistent=False)
        self.augmentation = augmentation
        self.mix = (
            Mixup(
                mixup_alpha=augmentation.mixup,
                cutmix_alpha=augmentation.cutmix,
                prob=augmentation.mix_probability,
                switch_prob=augmentation.mix_switch_probability,
                label_smoothing=label_smoothing,
                num_classes=num_classes,
            )
            if augmentation.mixes
            else None
        )

    def forward(self, pixels_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """Turn pixels (0 to 255) and labels into images and targets.

        Returns:
            Normalized images, and their targets: labels (B,), or probabilities (B, K) if batches are mixed.
        """
        images_BCHW = (pixels_BCHW.to(self.mean_C11.dtype) - self.mean_C11) / self.std_C11
        if self.augmentation.random_erasing:
            erase = RandomErasing(
                self.augmentation.random_erasing, mode=self.augmentation.erasing_mode, device=images_BCHW.device
            )
            images_BCHW = erase(images_BCHW)
        return self.mix(images_BCHW, labels_B) if self.mix is not None else (images_BCHW, labels_B)
