"""The end of a transformer in timm's interface: pooling of its tokens, and a linear classifier.

Shape suffixes: B images, N = P + H * W tokens, P prefix tokens, D channels of a token.
"""

from timm.layers import global_pool_nlc, trunc_normal_
from torch import Tensor, nn


class TokenClassifier(nn.Module):
    """A model whose ``forward_features`` returns normalized tokens, and the classifier on top of them.

    A subclass calls :meth:`reset_classifier` once it has set ``num_features`` and ``num_prefix_tokens``, and assigns
    ``head_drop``.
    """

    num_features: int
    num_prefix_tokens: int
    num_classes: int
    global_pool: str
    head_drop: nn.Module
    head: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, height, width) to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, C, height, width) to normalized tokens (B, N, D)."""
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Normalized tokens (B, N, D) to logits (B, num_classes), or to the input of the classifier.

        Without pooling, each token is classified: (B, N, num_classes).
        """
        x = global_pool_nlc(x, pool_type=self.global_pool, num_prefix_tokens=self.num_prefix_tokens)
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def get_classifier(self) -> nn.Module:
        """The last layer: linear, or an identity if there are no classes."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a fresh one, or remove it.

        Args:
            num_classes: outputs of the new classifier; 0 for none.
            global_pool: ``"token"`` (class token), ``"avg"`` (mean of the patch tokens) or ``""`` (every token); None
                keeps the pooling.

        Raises:
            ValueError: for another pooling, or for ``"token"`` if there is no class token.
        """
        if global_pool is not None:
            if global_pool not in ("token", "avg", ""):
                raise ValueError(f"global_pool is {global_pool!r}; it must be 'token', 'avg' or '' for none")
            if global_pool == "token" and not self.num_prefix_tokens:
                raise ValueError("global_pool is 'token'; without its last stage the model has none, only 'avg' or ''")
            self.global_pool = global_pool
        self.num_classes = num_classes
        parameter = next(self.parameters())
        head = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()
        self.head = head.apply(init_linear).to(parameter.device, parameter.dtype).train(self.training)


def init_linear(module: nn.Module) -> None:
    """Initialize a linear layer as vision transformers do: a truncated normal of 0.02, and no bias."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
