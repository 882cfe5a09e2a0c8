"""The measures that an analysis takes of every model: names, units, sources, and how many images each needs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from localvit.analysis.measures.attention_distance import attention_distance
from localvit.analysis.measures.frequencies import frequency_amplitudes
from localvit.analysis.measures.kernels import depthwise_kernels
from localvit.analysis.measures.locality_index import locality_index
from localvit.analysis.measures.receptive_field import effective_receptive_field
from localvit.analysis.measures.robustness import robustness
from localvit.analysis.measures.token_similarity import token_similarity
from localvit.evaluation.shown_images import Selection

ALIGNMENT = "alignment"


class Measured(Protocol):
    """The result of any measure."""

    def series(self) -> Mapping[str, Sequence[float | None]]:
        """Named values, one per layer (or per condition, for robustness)."""


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes:
        title: heading in reports.
        says: what it says, in a sentence.
        source: who proposed it.
        headline: the series that stands for the measure in tables and sentences.
        unit: of the headline; empty for shares and similarities.
        images: most images that it uses; 0 if it needs none.
        batch_size: images per batch.
        take: takes it of a model.
        initially: whether it is also taken of the model before training.
    """

    title: str
    says: str
    source: str
    headline: str
    unit: str
    images: int
    batch_size: int
    take: Callable[[nn.Module, Selection], Measured] | None
    initially: bool = False


def _robustness(model: nn.Module, images: Selection) -> Any:
    return robustness(model, images, images.labels())


MEASURES: dict[str, Measure] = {
    "locality-index": Measure(
        "Locality index",
        "How much of what a layer adds to a token comes from the token's neighbors, and from which branch.",
        "ours, defined in docs/analysis.md",
        "index",
        "",
        *(32, 8, locality_index),
        initially=True,
    ),
    "attention-distance": Measure(
        "Attention distance",
        "How far a token looks: the mean distance to the tokens that it attends to.",
        "Dosovitskiy et al. 2021; Raghu et al. 2021",
        "mean",
        "px",
        *(128, 32, attention_distance),
    ),
    "receptive-field": Measure(
        "Effective receptive field",
        "Which pixels really reach the token in the middle: the radius that holds half of its gradient.",
        "Luo et al. 2016",
        "radius",
        "px",
        *(16, 8, effective_receptive_field),
        initially=True,
    ),
    "frequencies": Measure(
        "High frequencies",
        "Whether layers smooth or sharpen: amplitude at the highest frequency relative to frequency 0, as a logarithm.",
        "Park and Kim 2022",
        "after feed-forward",
        "",
        *(128, 32, frequency_amplitudes),
    ),
    "token-similarity": Measure(
        "Similarity of tokens",
        "Whether tokens become alike with depth: the mean cosine between the tokens of an image.",
        "Gong et al. 2021; Park and Kim 2022",
        "similarity",
        "",
        *(128, 32, token_similarity),
    ),
    ALIGNMENT: Measure(
        "Similarity of layers",
        "Which layers compute the same as which layers of the reference: linear CKA.",
        "Kornblith et al. 2019; Nguyen et al. 2021",
        "same depth",
        "",
        *(256, 64, None),
    ),
    "kernels": Measure(
        "Depth-wise kernels",
        "What the kernels have become: the share of the middle tap, and whether they are identities, blurs or edges.",
        "ours, defined in docs/analysis.md",
        "middle tap",
        "",
        *(0, 1, lambda model, images: depthwise_kernels(model)),
    ),
    "robustness": Measure(
        "Robustness",
        "What a decision rests on: accuracy on images that lack order, position, parts or frequencies.",
        "Naseer et al. 2021; Park and Kim 2022",
        "accuracy",
        "%",
        *(4096, 32, _robustness),
    ),
}
