"""Write ``docs/families.md``: models of timm, torchvision and transformers that ``localvit.localize`` works on.

    python docs/families.py

For every model, the residual mode must reproduce the outputs of the original, and change them once its convolution has
weights. In the mode of the paper, every parameter must get a finite gradient.
"""

import copy
import warnings
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from rich.progress import track
from torch import nn

from localvit import LocalityConfig, localize
from localvit.locality.hidden import HiddenLocality
from localvit.locality.localize import localizations

PAGE = Path(__file__).with_name("families.md")
# Each model represents a feature of token layouts.
MODELS = {
    "vit_tiny_patch16_224": "class token",
    "vit_medium_patch16_gap_256": "no prefix token, average pooling, layer scale",
    "vit_base_patch16_siglip_224": "attention pooling",
    "vit_base_patch16_clip_224": "norm before the blocks",
    "vit_small_patch14_reg4_dinov2": "class token and 4 registers",
    "vit_giant_patch14_dinov2": "packed SwiGLU",
    "vit_tiny_r_s16_p8_224": "convolutional stem",
    "deit_tiny_patch16_224": "class token",
    "deit_tiny_distilled_patch16_224": "class and distillation token",
    "deit3_small_patch16_224": "layer scale",
    "vit_relpos_small_patch16_224": "relative positions",
    "vit_srelpos_small_patch16_224": "shared relative positions",
    "beit_base_patch16_224": "layer scale as a parameter",
    "beitv2_base_patch16_224": "relative positions in each block",
    "eva02_tiny_patch14_224": "SwiGLU, rotary positions",
    "eva_giant_patch14_224": "plain MLP",
    "vit_small_patch16_dinov3": "registers, rotary positions, any image size",
    "vit_small_plus_patch16_dinov3": "gated MLP",
    "samvit_base_patch16": "maps, attention in windows",
    "swin_tiny_patch4_window7_224": "windows",
    "swinv2_tiny_window8_256": "norm after the MLP",
    "pvt_v2_b0": "hierarchy, MLP with a convolution of its own",
    "tnt_s_legacy_patch16_224": "outer transformer",
    "cait_xxs24_224": "class token after the blocks, shared stochastic depth",
    "xcit_nano_12_p16_224": "attention over channels",
    "twins_svt_small": "windows and sub-sampled attention",
    "twins_pcpvt_small": "sub-sampled attention",
    "mvitv2_tiny": "pooling inside of blocks",
    "mvitv2_base_cls": "pooling, class token",
    "hiera_tiny_224": "tokens kept window by window",
    "davit_tiny": "blocks over windows and over channels",
    "gcvit_xxtiny": "maps",
    "volo_d1_224": "maps, outlook attention",
    "convit_tiny": "class token after the blocks with gated attention",
    "naflexvit_base_patch16_gap": "images of any shape",
    "pit_ti_224": "pooling between stages, class token",
    "pit_ti_distilled_224": "pooling between stages, class and distillation token",
    "maxvit_rmlp_pico_rw_256": "windows and grids on maps, beside convolutions",
    "swinv2_cr_tiny_224": "norm after the MLP, relative positions by a network",
    "crossvit_tiny_240": "two branches with patches of different sizes",
    "coat_lite_tiny": "class token in each stage, shared stochastic depth",
    "torchvision/vit_b_32": "class token",
    "torchvision/swin_t": "windows, shared stochastic depth",
    "torchvision/swin_v2_t": "norm after the MLP",
    "transformers/vit": "class token",
    "transformers/deit": "class and distillation token",
    "transformers/dinov2_with_registers": "class token and registers, layer scale",
    "transformers/siglip_vision_model": "attention pooling",
    "transformers/swin": "windows",
}
_TORCHVISION, _TRANSFORMERS = "torchvision/", "transformers/"
_SMALL = {  # fields of a configuration of transformers
    "image_size": 64,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
_SMALL_SWIN = {"image_size": 64, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4}
_SMALLER: dict[str, dict[str, Any]] = {
    "vit_giant_patch14_dinov2": {"depth": 2},
    "eva_giant_patch14_224": {"depth": 2},
    "samvit_base_patch16": {"img_size": 256, "depth": 3},
}


def create(name: str, **arguments: Any) -> tuple[nn.Module, int]:
    """A model with 7 classes, changed by ``arguments``, and the side of its images."""
    if name.startswith(_TORCHVISION):
        return torchvision.models.get_model(name.removeprefix(_TORCHVISION), num_classes=7), 224
    if name.startswith(_TRANSFORMERS):
        import transformers  # an optional dependency

        kind = name.removeprefix(_TRANSFORMERS)
        build: Any = transformers.AutoModel.from_config
        config = transformers.AutoConfig.for_model(kind, **(_SMALL_SWIN if kind == "swin" else _SMALL) | arguments)
        return build(config), 64
    model: nn.Module = timm.create_model(name, num_classes=7, **_SMALLER.get(name, {}) | arguments)
    size = _SMALLER.get(name, {}).get("img_size", timm.data.resolve_model_data_config(model)["input_size"][-1])
    return model, size


def answer(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What a model says of images; of transformers' models, their pooled feature."""
    output = model(images)
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def try_model(name: str) -> tuple[str, int, float, float]:
    """Class, number of localized layers, and differences of the residual mode from the original.

    The first difference is that of fresh localities, the second that of localities with random weights.

    Raises:
        RuntimeError: if a parameter of the model in replace mode gets no finite gradient.
    """
    torch.manual_seed(0)
    model, size = create(name)
    _randomize(model.eval())
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = answer(model, images)
        residual = localize(copy.deepcopy(model), LocalityConfig(channel_attention="se"), mode="residual").eval()
        exact = (answer(residual, images) - expected).abs().max().item()
        for module in residual.modules():
            if isinstance(module, HiddenLocality):
                nn.init.normal_(module.depthwise.weight, std=0.1)
        learned = (answer(residual, images) - expected).abs().max().item()

    replaced = localize(model, LocalityConfig(expansion_ratio=1)).train()
    answer(replaced, images).square().mean().backward()
    for parameter_name, parameter in replaced.named_parameters():
        if "mask_token" in parameter_name:  # takes part in pretraining only
            continue
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.isfinite().all()):
            raise RuntimeError(f"{name}: {parameter_name} got no finite gradient")
    return type(model).__name__, len(localizations(residual)[0].layers), exact, learned


def _randomize(model: nn.Module) -> None:
    """Move weights away from their initial values: zeros in layer scales and heads would hide a wrong branch."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim <= 1:
                parameter.add_(torch.rand_like(parameter) * 0.1)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.02)


def main() -> None:
    """Try all models, then write the page."""
    warnings.filterwarnings("ignore", category=UserWarning)
    rows = [(name, *try_model(name)) for name in track(MODELS, "Trying models")]
    lines = [
        "# Models that `localvit.localize` works on",
        "",
        "`python docs/families.py` tried each row and wrote this page. In residual mode, the outputs equal those of",
        "the original (largest difference), and change once the convolution has learned something. In the mode of",
        "the paper, every parameter gets a finite gradient. `tests/locality/test_families.py` repeats this. Other",
        "models of the same class work the same way. Names without a slash are timm's; those of transformers need",
        "`pip install localvit[transformers]`. For another family, register a",
        "[token layout](localize.md#your-own-model).",
        "",
        "| model | class | represents | layers | difference, residual | after learning |",
        "|---|---|---|---:|---:|---:|",
        *(
            f"| `{name}` | `{kind}` | {MODELS[name]} | {layers} | {exact:.0e} | {learned:.0e} |"
            for name, kind, layers, exact, learned in rows
        ),
        "",
        f"{len(rows)} models, {len({row[1] for row in rows})} classes.",
    ]
    PAGE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
