"""Writes what a benchmark measured: every number, tables, and a page of charts."""

from pathlib import Path

from localvit.benchmark.chart import chart
from localvit.benchmark.page import Section, write_page
from localvit.benchmark.result import BenchmarkResult
from localvit.benchmark.tables import HEADERS, problems, table_rows
from localvit.system.files import write_text

LEAD = (
    "Images a second are medians over rounds in which the contestants took turns; IQR is the range between the "
    "quartiles over the median. The ratio to the first contestant is paired by round. MiB is the peak memory of a "
    "step, with its ratio; MFU, model FLOP utilisation, is a share of the rate at which the machine multiplies "
    "large matrices."
)
_CAPTION = (
    "Medians over rounds, whiskers from quartile to quartile, and in brackets how many times those of the first "
    "contestant. More images a second are better, and less memory."
)


def write_report(benchmark: BenchmarkResult, folder: Path) -> Path:
    """Write ``results.json``, ``results.md`` and ``chart.html`` into ``folder``; the path of the page."""
    write_text(folder / "results.json", benchmark.to_json())
    page = folder / "chart.html"
    write_page(
        "Models on the clock", LEAD, sections(benchmark), benchmark.record, page=page, table=folder / "results.md"
    )
    return page


def sections(benchmark: BenchmarkResult) -> list[Section]:
    """A part of a page for each setting: table, what failed, and chart."""
    return [
        Section(
            result.setting.words(),
            HEADERS,
            table_rows(benchmark, result),
            problems(result),
            chart(benchmark, result),
            _CAPTION,
        )
        for result in benchmark.results
    ]
