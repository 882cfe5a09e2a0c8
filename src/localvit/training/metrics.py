"""Counts over all images and all processes, each image once."""

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

# Sums over a million images need it; Apple's GPUs have no such type.
_SUM_TYPE = torch.float32 if torch.backends.mps.is_available() else torch.float64


class ClassificationMetrics(nn.Module):
    """Top-1, top-5 (percent) and cross-entropy.

    Args:
        num_classes: number of classes K; with fewer than five, top-5 is top-K.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.most = min(5, num_classes)
        self.top1, self.top5, self.loss = (MeanMetric().set_dtype(_SUM_TYPE) for _ in range(3))

    def update(self, logits_BK: Tensor, labels_B: Tensor, counted_B: Tensor) -> None:
        """Count those images of a batch that count."""
        logits_BK, labels_B = logits_BK[counted_B].float(), labels_B[counted_B]
        if len(labels_B) == 0:
            return
        right_B5 = logits_BK.topk(self.most).indices == labels_B[:, None]
        self.top1.update(100 * right_B5[:, 0].to(_SUM_TYPE))
        self.top5.update(100 * right_B5.any(dim=1).to(_SUM_TYPE))
        self.loss.update(F.cross_entropy(logits_BK, labels_B, reduction="none").to(_SUM_TYPE))

    def totals(self) -> dict[str, float]:
        """Over all processes; starts anew."""
        means = {"top1": self.top1, "top5": self.top5, "loss": self.loss}
        totals = {name: float(mean.compute()) for name, mean in means.items()}
        for mean in means.values():
            mean.reset()
        return totals


class RunningMean:
    """The mean of a loss over images, kept on the device until it is asked for."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start anew."""
        self._sum: Tensor | float = 0.0
        self._images = 0

    def update(self, loss: Tensor, images: int) -> None:
        """Add the mean loss () of so many images."""
        self._sum = self._sum + loss.to(_SUM_TYPE) * images
        self._images += images

    def total(self, strategy: Strategy) -> float:
        """The mean over all processes."""
        loss_sum, images = self.state(strategy)
        return loss_sum / images if images else float("nan")

    def state(self, strategy: Strategy) -> tuple[float, int]:
        """Sum and number of images over all processes."""
        totals_2 = torch.tensor([float(self._sum), self._images], dtype=_SUM_TYPE, device=strategy.root_device)
        reduced_2 = strategy.reduce(totals_2, reduce_op="sum")
        assert isinstance(reduced_2, Tensor)
        return reduced_2[0].item(), int(reduced_2[1].item())

    def load(self, state: tuple[float, int]) -> None:
        """Go on from an earlier ``state``."""
        self._sum, self._images = state
