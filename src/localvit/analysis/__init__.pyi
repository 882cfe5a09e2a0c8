from .layers import NotMeasurableError
from .measures.alignment import Alignment, linear_cka
from .measures.attention_distance import AttentionDistance, attention_distance
from .measures.frequencies import FrequencyAmplitudes, frequency_amplitudes
from .measures.kernels import DepthwiseKernels, LayerKernels, depthwise_kernels
from .measures.locality_index import LocalityIndex, locality_index
from .measures.receptive_field import ReceptiveField, effective_receptive_field
from .measures.robustness import Robustness, robustness
from .measures.token_similarity import TokenSimilarity, token_similarity

__all__ = [
    "Alignment",
    "AttentionDistance",
    "DepthwiseKernels",
    "FrequencyAmplitudes",
    "LayerKernels",
    "LocalityIndex",
    "NotMeasurableError",
    "ReceptiveField",
    "Robustness",
    "TokenSimilarity",
    "attention_distance",
    "depthwise_kernels",
    "effective_receptive_field",
    "frequency_amplitudes",
    "linear_cka",
    "locality_index",
    "robustness",
    "token_similarity",
]
