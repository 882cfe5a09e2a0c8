"""Classification metrics that count each image once, over all processes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

# Sums over a million images need float64, which Apple's GPUs do not have.
SUM_TYPE = torch.float32 if torch.backends.mps.is_available() else torch.float64


class ClassificationMetrics(nn.Module):
    """Top-1 and top-5 accuracy (percent), and cross-entropy.

    Args:
        num_classes: number of classes K; below five, top-5 means top-K.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.most = min(5, num_classes)
        self.top1, self.top5, self.loss = (MeanMetric().set_dtype(SUM_TYPE) for _ in range(3))

    def update(self, logits_BK: Tensor, labels_B: Tensor, counted_B: Tensor) -> None:
        """Add the images of a batch that are marked in ``counted_B``."""
        logits_BK, labels_B = logits_BK[counted_B].float(), labels_B[counted_B]
        if len(labels_B) == 0:
            return
        right_B5 = logits_BK.topk(self.most).indices == labels_B[:, None]
        self.top1.update(100 * right_B5[:, 0].to(SUM_TYPE))
        self.top5.update(100 * right_B5.any(dim=1).to(SUM_TYPE))
        self.loss.update(F.cross_entropy(logits_BK, labels_B, reduction="none").to(SUM_TYPE))

    def totals(self) -> dict[str, float]:
        """Return the means over all processes, and reset them."""
        means = {"top1": self.top1, "top5": self.top5, "loss": self.loss}
        totals = {name: float(mean.compute()) for name, mean in means.items()}
        for mean in means.values():
            mean.reset()
        return totals
