"""Landmarks for experiments on small images: a linear classifier on pixels, and a small ResNet (arXiv 1512.03385).

They show what an accuracy on the same images is worth. Neither has attention or locality feed-forward networks.
"""

from typing import Any

from timm.layers import to_2tuple
from timm.models import ResNet, build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock
from torch import Tensor, nn

from localvit.models.build import pretrained_config
from localvit.models.head import init_linear

_SMALL: dict[str, Any] = {"input_size": (3, 32, 32), "crop_pct": 1.0}
default_cfgs = generate_default_cfgs(
    {
        "linear_classifier": pretrained_config(**_SMALL, first_conv=None, classifier="head"),
        "resnet_small": pretrained_config(**_SMALL, fixed_input_size=False, first_conv="conv1", classifier="fc"),
    }
)


class LinearClassifier(nn.Module):
    """One linear layer on the pixels of an image, with timm's model interface.

    Args:
        img_size: height and width of the images, or the side of a square.
        in_chans: channels of an image.
        num_classes: number of classes; 0 for no classifier.
        drop_rate: dropout of pixels.
    """

    def __init__(
        self, img_size: int | tuple[int, int] = 32, in_chans: int = 3, num_classes: int = 1000, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        height, width = to_2tuple(img_size)
        self.num_features = self.head_hidden_size = in_chans * height * width
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, C, height, width) to their pixels (B, C * height * width)."""
        return x.flatten(1)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pixels (B, C * height * width) to logits (B, num_classes), or to the input of the classifier."""
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, height, width) to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The linear layer, or an identity if there are no classes."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the linear layer by a fresh one; 0 classes remove it. There is nothing to pool."""
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()
        init_linear(self.head)


def _small_resnet(**arguments: Any) -> Any:
    """A ResNet of timm with a stem that keeps the resolution of small images: 3x3, stride 1 and no pooling."""
    model: Any = ResNet(**arguments)
    model.conv1 = nn.Conv2d(model.conv1.in_channels, model.conv1.out_channels, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    model.init_weights()
    for stage, info in enumerate(model.feature_info):
        info["reduction"] = 2 ** max(0, stage - 1)
    return model


@register_model
def linear_classifier(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """A linear layer on the pixels."""
    model: nn.Module = build_model_with_cfg(LinearClassifier, "linear_classifier", pretrained, **kwargs)
    return model


@register_model
def resnet_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """A ResNet of four basic blocks with 16 to 128 channels for images of 8 x 8 to 64 x 64 pixels."""
    body: dict[str, Any] = {"block": BasicBlock, "layers": (1, 1, 1, 1), "channels": (16, 32, 64, 128)}
    model: nn.Module = build_model_with_cfg(_small_resnet, "resnet_small", pretrained, **(body | kwargs))
    return model
