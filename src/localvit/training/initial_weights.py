"""Initial weights that are a function of seed, name and shape, whatever else the model has.

Modules draw their weights one after another from a single generator, so one more layer shifts the numbers of all later
ones. Two variants of a model then share hardly any initial weights, and training them with the same seed pairs nothing.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, UntypedStorage, nn

# No public mode sees the operations that PyTorch's own functions consist of, together with their tags: torch.overrides
# has neither. tests/training/test_initial_weights.py would notice a change.
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_RANDOM = torch.Tag.nondeterministic_seeded


def draw_by_name(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a model whose weights have the distributions that its modules choose, but numbers that follow from names.

    The model is built twice. The first time shows in which parameter or buffer the numbers of each random operation
    end up; the second time, the generator is seeded before each operation with that name. Names are those of the
    finished model.

    Args:
        build: builds the model, and does the same each time.
        seed: the seed of all weights.
    """
    with _Trace() as trace:
        seeds = trace.seeds(build(), seed)
    with _Seeded(seeds) as seeded:
        model = build()
    if seeded.used != len(seeds):
        raise RuntimeError(f"building the model drew {len(seeds)} times, then {seeded.used} times")
    return model


class _Trace(TorchDispatchMode):
    """Numbers the random operations, and follows where their numbers go.

    Tensors are followed by storage, which a parameter shares with the tensor that it was made of.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0
        self.draws: WeakKeyDictionary[UntypedStorage, set[int]] = WeakKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        draws: set[int] = set()
        for storage in _storages((args, kwargs)):
            draws |= self.draws.get(storage, set())
        if _RANDOM in func.tags:
            draws.add(self.count)
            self.count += 1
        result = func(*args, **(kwargs or {}))
        if draws:
            for storage in _storages(result):
                self.draws.setdefault(storage, set()).update(draws)
        return result

    def seeds(self, model: nn.Module, seed: int) -> list[int]:
        """A seed for each random operation; those whose numbers end up nowhere do not matter."""
        seeds = [0] * self.count
        for name, tensor in reversed([*model.named_parameters(), *model.named_buffers()]):
            # Counted from the last one, which overwrites what was drawn before.
            for place, draw in enumerate(sorted(self.draws.get(tensor.untyped_storage(), ()), reverse=True)):
                digest = hashlib.sha256(f"{seed} {name} {place}".encode()).digest()
                seeds[draw] = int.from_bytes(digest[:8], "big")
        return seeds


class _Seeded(TorchDispatchMode):
    """Seeds the generator of the CPU before each random operation."""

    def __init__(self, seeds: Sequence[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seeds, self.used = seeds, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _RANDOM in func.tags:
            if self.used < len(self.seeds):
                torch.default_generator.manual_seed(self.seeds[self.used])
            self.used += 1
        return func(*args, **(kwargs or {}))


def _storages(values: Any) -> Iterator[UntypedStorage]:
    return (value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor))
