"""int8 by torchao, for PyTorch's packages: the linear layers, whose inputs are rounded with a range for each token.

The ranges are those of the tokens at hand, so no image chooses them, and h-swish and squeeze-and-excitation between the
linear layers stay in full precision.
"""

import logging

from torch import nn

from localvit.models.exported.formats import needed


def with_linear_layers_in_int8(model: nn.Module) -> None:
    """Round the weights of the model's linear layers to 8 bits, and their inputs whenever it runs.

    Raises:
        LocalViTError: if torchao is missing.
    """
    # torchao registers its enumerations as older PyTorch needs it, and newer ones warn of each.
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    torchao = needed("torchao.quantization", "quantize")
    torchao.quantize_(model, torchao.Int8DynamicActivationInt8WeightConfig())
