"""Any transformer of timm, localized: a model that plain arguments describe, so that a file of timm can name it.

``timm.create_model("hf-hub:USER/NAME")`` builds a model from the name and the arguments in its ``config.json``. A
model that :func:`localvit.localize` made has neither, so it is stored as this one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import timm
from timm.models import generate_default_cfgs, register_model
from torch import nn

from localvit.locality.localize import Localization, localize
from localvit.models.build import build

NAME = "localized"
default_cfgs = generate_default_cfgs({NAME: {"num_classes": 1000}})  # for timm.list_models()


@register_model
def localized(
    pretrained: bool = False,
    base: str = "deit_tiny_patch16_224",
    localizations: Sequence[Mapping[str, Any]] = (),
    **kwargs: Any,
) -> nn.Module:
    """A transformer of timm in which locality was put into some layers.

    Args:
        pretrained: whether to load weights, from where the configuration says.
        base: timm name of the transformer.
        localizations: fields of the calls of :func:`localvit.localize`, in order: ``config``, ``layers`` and ``mode``.
        kwargs: arguments of the transformer.

    Raises:
        ValueError: for a base that timm does not know, or calls that it does not allow.
    """
    if base == NAME or not timm.is_model(base):
        raise ValueError(f"base is {base!r:.100}; it must be a model that timm.list_models() lists")
    if kwargs.get("pretrained_cfg") is None:  # then the input is the base's, and there are no weights
        known = timm.get_pretrained_cfg(base)
        kwargs["pretrained_cfg"] = {**(known.to_dict(remove_source=True) if known else {}), "architecture": NAME}
    calls = [Localization.from_plain(call) for call in localizations]

    def place(model: nn.Module) -> None:
        for call in calls:
            localize(model, call.config, layers=call.layers, mode=call.mode)

    def create(**arguments: Any) -> nn.Module:
        return timm.create_model(base, **arguments)

    return build(create, NAME, pretrained, place=place, **kwargs)
