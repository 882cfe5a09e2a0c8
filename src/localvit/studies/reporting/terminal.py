"""A study on the terminal: progress while it trains, and the table of its results."""

from collections.abc import Mapping, Sequence
from types import TracebackType

from rich import box
from rich.console import Console
from rich.progress import TaskID
from rich.table import Table

from localvit.studies.config import StudyRun
from localvit.studies.record import Outcome, outcome_of
from localvit.studies.reporting.statistics import StudySummary, VariantSummary
from localvit.system.progress import progress_bar


class StudyProgress:
    """Bars for the study and for each active run, and a permanent line for each run that ends.

    Args:
        console: where to print.
        runs: the runs of the study, or of a shard.
        finished: how many of them had finished before.
    """

    def __init__(self, console: Console, runs: Sequence[StudyRun], *, finished: int) -> None:
        self.runs, self.finished, self.failed = len(runs), finished, 0
        self.bars: dict[StudyRun, TaskID] = {}
        self.progress = progress_bar(console, "epochs", transient=False)
        epochs = sum(run.config.training.total_epochs for run in runs if outcome_of(run).status != "finished")
        self.total = self.progress.add_task(self._title(), total=epochs)

    def __enter__(self) -> "StudyProgress":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def started(self, run: StudyRun) -> None:
        """Show a bar for a run."""
        self.bars[run] = self.progress.add_task(str(run), total=run.config.training.total_epochs)

    def epochs(self, run: StudyRun, count: int, last: Mapping[str, float]) -> None:
        """Advance the bars of a run that has completed ``count`` epochs."""
        bar = self.bars[run]
        self.progress.advance(self.total, count - self._done(bar))
        self.progress.update(bar, completed=count, description=f"{run}: {last['val_top1']:.1f} %")

    def ended(self, run: StudyRun, outcome: Outcome) -> None:
        """Replace the bar of a run by a line."""
        if (bar := self.bars.pop(run, None)) is not None:
            self.progress.advance(self.total, run.config.training.total_epochs - self._done(bar))
            self.progress.remove_task(bar)
        if outcome.result is not None:
            self.finished += 1
            what = f"{outcome.result.accuracy:.2f} %"
        else:
            self.failed += 1
            what = f"failed: {(outcome.error or '').splitlines()[0]}"
        self.progress.update(self.total, description=self._title())
        number = f"[{self.finished + self.failed}/{self.runs}]"
        self.progress.console.print(f"{number} {run}: {what}", highlight=False, markup=False, soft_wrap=True)

    def _done(self, bar: TaskID) -> float:
        return next(task.completed for task in self.progress.tasks if task.id == bar)

    def _title(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        return f"[bold]{self.finished} of {self.runs} runs done{failed}"


def results_table(summary: StudySummary) -> Table:
    """The results of a study as a Rich table with one row per variant."""
    table = Table(
        title=f"{summary.config.question}\n{summary.config.name}, scale {summary.config.scale}",
        caption="± 95 % interval (Student's t over seeds). Gains are paired by seed, in points; verdicts at a level "
        "of 5 %, corrected for all comparisons of the study. The report has more.",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("variant")
    for header in ("parameters", "MACs", "accuracy %", "gain"):
        table.add_column(header, justify="right")
    table.add_column("verdict")
    for variant in summary.variants:
        table.add_row(*_row(summary, variant))
    return table


def _row(summary: StudySummary, variant: VariantSummary) -> list[str]:
    costs, gain = variant.costs, variant.gain
    is_baseline = summary.config.baseline_of(variant.name) is None
    return [
        variant.name,
        f"{costs.parameters:,}" if costs else "",
        f"{costs.macs:,}" if costs else "",
        variant.accuracy.short_text() if variant.accuracy else "no run yet",
        "" if gain is None else gain.difference.short_text(signed=True),
        "baseline" if is_baseline else gain.verdict.removesuffix(" at this size") if gain else "",
    ]
