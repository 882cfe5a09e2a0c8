"""Write the table of families in ``docs/analysis.md``: transformers of timm on which every measure was tried.

    python docs/analysis_families.py

Each model has random weights and sees two random images. A measure gives finite numbers, or says in a sentence why it
makes no sense for the family.
"""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from rich.progress import track
from torch import Tensor, nn

from localvit import analysis

PAGE = Path(__file__).with_name("analysis.md")
START, END = "<!-- families: docs/analysis_families.py -->", "<!-- end of families -->"
# Each model represents a way to order tokens; those of the paper have a test of their own.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit_small_patch14_reg4_dinov2": ("registers", {"img_size": 224}),
    "vit_relpos_small_patch16_224": ("relative positions", {}),
    "beit_base_patch16_224": ("layer scale as a parameter", {}),
    "eva02_tiny_patch14_224": ("rotary positions", {}),
    "samvit_base_patch16": ("windows with padding", {"img_size": 256, "depth": 3}),
    "swinv2_tiny_window8_256": ("shifted windows, norm after the branch", {}),
    "pvt_v2_b0": ("reduced keys, convolution in the MLP", {}),
    "twins_svt_small": ("windows and reduced keys in turn", {}),
    "cait_xxs24_224": ("talking heads", {}),
    "xcit_nano_12_p16_224": ("attention over channels", {}),
    "mvitv2_tiny": ("pooling inside of blocks", {}),
    "hiera_tiny_224": ("tokens kept window by window", {}),
    "davit_tiny": ("windows and channels in turn", {}),
    "gcvit_xxtiny": ("windows and global queries", {}),
    "volo_d1_224": ("outlook attention", {}),
    "vit_tiny_r_s16_p8_224": ("convolutional stem", {}),
}
MEASURES: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "locality index": lambda model, images: analysis.locality_index(model, images, tokens=2),
    "attention distance": analysis.attention_distance,
    "receptive field": lambda model, images: analysis.effective_receptive_field(model, images, projections=1),
    "frequencies": analysis.frequency_amplitudes,
    "token similarity": analysis.token_similarity,
    "CKA": lambda model, images: analysis.linear_cka(model, model, torch.cat([images, images.flip(3)])),
    "kernels": lambda model, images: analysis.depthwise_kernels(model),
    "robustness": analysis.robustness,
}


def try_model(name: str) -> tuple[str, dict[str, str]]:
    """Class of a model, and for each measure that makes no sense for it the reason.

    Raises:
        RuntimeError: if a measure gives no number, or one that is not finite.
    """
    torch.manual_seed(0)
    arguments = MODELS[name][1]
    model = timm.create_model(name, num_classes=7, **arguments).eval()
    size = arguments.get("img_size", timm.data.resolve_model_data_config(model)["input_size"][-1])
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        for parameter in model.parameters():  # branches that start at zero would add nothing
            parameter.add_(0.02 * torch.randn_like(parameter))
    reasons = {}
    for measure, take in MEASURES.items():
        try:
            found = take(model, images)
        except analysis.NotMeasurableError as error:
            reasons[measure] = str(error)
            continue
        values = [value for series in found.series().values() for value in series if value is not None]
        if not values or not all(map(math.isfinite, values)):
            raise RuntimeError(f"{name}: {measure} gave {values[:10]}")
    return type(model).__name__, reasons


def table() -> str:
    """The table, and the reasons below it."""
    tried = {name: try_model(name) for name in track(MODELS, "Trying models")}
    reasons = list(dict.fromkeys(reason for _, found in tried.values() for reason in found.values()))
    lines = [
        f"| timm model | represents | {' | '.join(MEASURES)} |",
        f"|---|---|{':-:|' * len(MEASURES)}",
    ]
    for name, (_, found) in tried.items():
        cells = [f"no ({reasons.index(found[measure]) + 1})" if measure in found else "yes" for measure in MEASURES]
        lines.append(f"| `{name}` | {MODELS[name][0]} | {' | '.join(cells)} |")
    lines += ["", *(f"{number}. {reason}." for number, reason in enumerate(reasons, start=1))]
    return "\n".join(lines)


def main() -> None:
    """Try all models, then replace the table in the page."""
    warnings.filterwarnings("ignore", category=UserWarning)
    before, _, rest = PAGE.read_text().partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{START}\n\n{table()}\n\n{END}{after}")


if __name__ == "__main__":
    main()
