"""A study on the terminal: progress while it trains, and the table of its results."""

from collections.abc import Mapping, Sequence
from types import TracebackType

from rich import box
from rich.console import Console
from rich.progress import TaskID
from rich.table import Table

from localvit.studies.config import StudyConfig, StudyRun
from localvit.studies.record import Outcome
from localvit.studies.reporting.tables import claim_rows
from localvit.studies.statistics.findings import StudySummary, VariantSummary
from localvit.studies.statistics.power import power
from localvit.studies.statistics.summary import ALPHA
from localvit.system.progress import progress_bar

_EFFECTS = (0.25, 0.5, 1.0, 2.0, 4.0)  # points


class StudyProgress:
    """Bars for the study and for each active run, and a permanent line for each run that ends.

    Args:
        console: where to print.
        runs: the runs to train.
        finished: how many others had finished before.
    """

    def __init__(self, console: Console, runs: Sequence[StudyRun], *, finished: int) -> None:
        self.runs, self.finished, self.failed = finished + len(runs), finished, 0
        self.bars: dict[StudyRun, TaskID] = {}
        self.progress = progress_bar(console, "epochs", transient=False)
        epochs = sum(run.config.training.total_epochs for run in runs)
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
        accuracy = f": {last['val_top1']:.1f} %" if "val_top1" in last else ""
        self.progress.update(bar, completed=count, description=f"{run}{accuracy}")

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
        caption="± 95 % interval over seeds and test images; gains are in points. The report has more.",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("variant")
    for header in ("parameters", "MACs", "accuracy %", "gain"):
        table.add_column(header, justify="right")
    for variant in summary.variants:
        table.add_row(*_row(summary, variant))
    return table


def claims_table(summary: StudySummary) -> Table:
    """The claims of a study as a Rich table with one row per contrast."""
    table = Table(
        caption="Intervals and p-values hold for all claims and looks together, at 95 % and 5 %.",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("claim")
    table.add_column("difference", justify="right")
    table.add_column("p", justify="right")
    table.add_column("this study")
    for name, difference, p, *_, verdict, _ in claim_rows(summary):
        table.add_row(name, difference, p, verdict)
    return table


def power_table(study: StudyConfig, seed_sd: float) -> Table:
    """The probability that each look finds an effect, for effects of several sizes and the claims of a study."""
    table = Table(
        title=f"{study.name}, scale {study.scale}: probability of finding an effect",
        caption=f"For runs whose accuracy varies by {seed_sd:.2f} points (SD) between seeds; test images not counted.",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("claim")
    table.add_column("effect, points", justify="right")
    for look in study.all_looks:
        table.add_column(f"{look} seeds", justify="right")
    compared = len(study.variants) - len(study.landmarks)
    for claim, contrasts in zip(study.tested, study.contrasts, strict=True):
        for effect in _EFFECTS:
            found = power(
                effect,
                looks=study.all_looks,
                seed_sd=seed_sd,
                weights=[*contrasts[0].weights.values()],
                variants=compared,
                alpha=ALPHA / len(study.tested),
            )
            table.add_row(
                str(claim) if effect == _EFFECTS[0] else "", f"{effect:g}", *(f"{100 * p:.0f} %" for p in found)
            )
    return table


def _row(summary: StudySummary, variant: VariantSummary) -> list[str]:
    costs, gain = variant.costs, variant.gain
    is_baseline = summary.config.baseline_of(variant.name) is None
    return [
        variant.name,
        f"{costs.parameters:,}" if costs else "",
        f"{costs.macs:,}" if costs else "",
        variant.accuracy.short_text() if variant.accuracy else "no run yet",
        "baseline" if is_baseline else "" if gain is None else gain.short_text(signed=True),
    ]
