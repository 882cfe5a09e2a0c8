"""The progress bar of all commands, with rate, elapsed and remaining time."""

from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


def progress_bar(console: Console, unit: str = "", *, transient: bool = True, **options: Any) -> Progress:
    """Create a progress bar. Tasks may show more text in their field ``figures``.

    Args:
        console: where to draw it.
        unit: what tasks count, such as images, to show number and rate. If empty, the bar shows a percentage.
        transient: whether the bar disappears at the end.
        options: further options of ``rich.progress.Progress``.
    """
    counted = (
        (MofNCompleteColumn(), TextColumn(unit), _Rate(unit)) if unit else (TextColumn("{task.percentage:>3.0f} %"),)
    )
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        *counted,
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        _Figures(),
        console=console,
        transient=transient,
        **options,
    )


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """Units per second."""
        speed = task.finished_speed or task.speed
        digits = 0 if speed is None or speed >= 10 else 1
        return Text("" if speed is None else f"{speed:,.{digits}f} {self.unit}/s")


class _Figures(ProgressColumn):
    def render(self, task: Task) -> Text:
        """The field ``figures`` of a task, if it has one."""
        return Text(str(task.fields.get("figures", "")))
