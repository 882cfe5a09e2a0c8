"""Classification metrics that count each image once, over all processes.

Shape suffixes: B images of a batch, K classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

# Sums over a million images need float64, which Apple's GPUs do not have.
SUM_TYPE = torch.float32 if torch.backends.mps.is_available() else torch.float64


def classification_figures(logits_BK: Tensor, labels_B: Tensor) -> dict[str, Tensor]:
    """For each image, 100 or 0 as its class is the first (``top1``) or among the first five, and its cross-entropy.

    With fewer than five classes, ``top5`` means all of them.
    """
    logits_BK = logits_BK.float()
    hits_BT = logits_BK.topk(min(5, logits_BK.shape[1])).indices == labels_B[:, None]
    return {
        "top1": 100 * hits_BT[:, 0].to(SUM_TYPE),
        "top5": 100 * hits_BT.any(dim=1).to(SUM_TYPE),
        "loss": F.cross_entropy(logits_BK, labels_B, reduction="none").to(SUM_TYPE),
    }


class ClassificationMetrics(nn.Module):
    """Running means of :func:`classification_figures`."""

    def __init__(self) -> None:
        super().__init__()
        self.top1, self.top5, self.loss = (MeanMetric().set_dtype(SUM_TYPE) for _ in range(3))
        self._means = {"top1": self.top1, "top5": self.top5, "loss": self.loss}

    def update(self, logits_BK: Tensor, labels_B: Tensor, counted_B: Tensor) -> None:
        """Add the images of a batch that are marked in ``counted_B``."""
        if counted_B.any():
            for name, values_B in classification_figures(logits_BK[counted_B], labels_B[counted_B]).items():
                self._means[name].update(values_B)

    def totals(self) -> dict[str, float]:
        """Return the means over all processes, and reset them."""
        totals = {name: float(mean.compute()) for name, mean in self._means.items()}
        for mean in self._means.values():
            mean.reset()
        return totals
