"""Errors, whose messages say what was given, what is allowed and what to do."""

import signal


class LocalViTError(RuntimeError):
    """An error that users can fix. The command line prints its message without a traceback."""


class Interrupted(Exception):
    """A signal has stopped a run, and its state is saved.

    Args:
        signal_number: the signal.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"Stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number

    def __reduce__(self) -> tuple[type["Interrupted"], tuple[int]]:
        return type(self), (self.signal_number,)


def require(name: str, value: float, *, above: float | None = None, at_least: float | None = None) -> None:
    """Raise ``ValueError`` unless ``value`` is ``above`` one bound, or ``at_least`` the other."""
    if above is not None and not value > above:
        raise ValueError(f"{name} is {value}; it must be more than {above}")
    if at_least is not None and not value >= at_least:
        raise ValueError(f"{name} is {value}; it must be at least {at_least}")
