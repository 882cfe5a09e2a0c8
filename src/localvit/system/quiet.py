"""Messages of libraries that say nothing to a user of this project."""

import logging
import warnings

_HARMLESS = (
    ".*does not have many workers.*",  # small images are read faster than processes hand them over
    "Checkpoint directory .* exists and is not empty",  # it is the run's own folder
    ".*isinstance.treespec, LeafSpec.*",  # between Lightning and PyTorch
    "Found .* module.s. in eval mode at the start of training",  # the averaged weights are never trained
    "The number of training batches .* is smaller than the logging interval",  # epochs are logged all the same
    "Grad strides do not match bucket view strides.*",  # costs a copy of small weights
    "No CUDA runtime is found.*",
)


def quiet() -> None:
    """Silence them in this process; for programs, not for the library."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    logging.getLogger("torch._higher_order_ops.wrap").setLevel(logging.ERROR)  # asks for care in checkpoints, taken
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # that there is no GPU, whenever it compiles
    for message in _HARMLESS:
        warnings.filterwarnings("ignore", message=message)
