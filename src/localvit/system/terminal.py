"""The consoles that commands print to, and the library messages that they hide."""

import logging
import warnings

from rich.console import Console

RESULTS, ERRORS = Console(highlight=False), Console(stderr=True, highlight=False)

_HARMLESS = (
    ".*does not have many workers.*",  # small images load faster in the training process
    "Checkpoint directory .* exists and is not empty",  # it is the run's own folder
    ".*isinstance.treespec, LeafSpec.*",  # Lightning uses an old name of PyTorch's
    "Found .* module.s. in eval mode at the start of training",  # the averaged weights are never trained
    "The number of training batches .* is smaller than the logging interval",  # epochs are logged anyway
    "Grad strides do not match bucket view strides.*",  # costs a copy of small weights
    "No CUDA runtime is found.*",
)


def quiet() -> None:
    """Hide library messages that do not help users of a command; call it after Lightning is imported."""
    for name in (
        "lightning.pytorch",
        "lightning.fabric",
        "torch._higher_order_ops.wrap",  # warns about random state in checkpoints, which the kernels handle
        "torch.utils.cpp_extension",  # reports that there is no GPU whenever it compiles
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in _HARMLESS:
        warnings.filterwarnings("ignore", message=message)
    # What Pillow says of damage in a file: whoever reads the file names it in an error if it cannot be read.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
