"""What a person sees on the terminal: progress while a study trains, and its table."""

from types import TracebackType

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from localvit.studies.config import StudyConfig
from localvit.studies.runner import RunId
from localvit.studies.statistics import VariantSummary
from localvit.training import RunResult
from localvit.training.history import Epoch


class StudyProgress:
    """Bars for the study and for each run in work, with rate and time left; a line for each run that ends.

    Args:
        console: where to.
        study: the study.
        finished: how many of its runs had finished before.
    """

    def __init__(self, console: Console, study: StudyConfig, *, finished: int) -> None:
        self.epochs = study.recipe.training.total_epochs
        self.runs = len(study.variants) * len(study.seeds)
        self.finished = finished
        self.bars: dict[RunId, TaskID] = {}
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs"),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self.total = self.progress.add_task(self._title(), total=(self.runs - finished) * self.epochs)

    def __enter__(self) -> "StudyProgress":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def on_epoch(self, run_id: RunId, epoch: Epoch) -> None:
        """Move the bars."""
        description = f"{run_id}: {epoch['val_top1']:.1f} %"
        if run_id not in self.bars:
            resumed = int(epoch["epoch"]) - 1
            self.bars[run_id] = self.progress.add_task(description, total=self.epochs, completed=resumed)
            self.progress.advance(self.total, resumed)
        self.progress.update(self.bars[run_id], advance=1, description=description)
        self.progress.advance(self.total)

    def on_result(self, run_id: RunId, result: RunResult) -> None:
        """Take the run's bar away and leave a line."""
        self.finished += 1
        if run_id in self.bars:
            self.progress.remove_task(self.bars.pop(run_id))
        self.progress.update(self.total, description=self._title())
        self.progress.console.print(f"[{self.finished}/{self.runs}] {run_id}: {result.accuracy:.2f} %", highlight=False)

    def _title(self) -> str:
        return f"[bold]{self.finished} of {self.runs} runs done"


class _Rate(ProgressColumn):
    """Epochs a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")


def results_table(study: StudyConfig, summaries: list[VariantSummary]) -> Table:
    """The results of a study as a Rich table, a row a variant."""
    table = Table(
        title=study.question,
        caption="± 95 % interval (Student's t over seeds); gains are paired by seed, in points.\n"
        "paper: ImageNet-1k, one run, 4 attention heads where DeiT-T has 3; – where it states none.",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("variant")
    for header in ("parameters", "MACs", "test accuracy %", "gain", "paper"):
        table.add_column(header, justify="right")
    for summary in summaries:
        is_baseline = summary.name == study.baseline
        table.add_row(
            summary.name,
            f"{summary.parameters:,}",
            f"{summary.macs:,}",
            summary.accuracy.short_text(),
            "baseline" if is_baseline else summary.gain.short_text(signed=True),
            "" if is_baseline else summary.paper_gain,
        )
    return table
