"""Writes the results of a benchmark: all numbers as JSON, tables as Markdown, and a page with charts."""

from pathlib import Path

from localvit.benchmark.chart import chart
from localvit.benchmark.page import Section, write_page
from localvit.benchmark.result import BenchmarkResult, Measurement, SettingResult, memory_ratio, ratio
from localvit.system.files import write_text

HEADERS = ("model", "images/s", "IQR %", "ratio", "quartiles", "MiB", "MiB ratio", "MFU %")
FAILED, UNKNOWN = "failed", "–"
_LEAD = (
    "Images per second are medians over rounds in which the models took turns. IQR is the interquartile range divided "
    "by the median. Ratios to the first model are paired by round. MiB is the peak memory of a step. MFU, model FLOP "
    "utilization, is relative to the rate at which this machine multiplies large matrices."
)
_CAPTION = (
    "Medians over rounds; whiskers show quartiles, and brackets the ratio to the first model. More images per second "
    "are better, and less memory."
)


def write_report(benchmark: BenchmarkResult, folder: Path) -> Path:
    """Write ``results.json``, ``results.md`` and ``chart.html`` into ``folder``. Returns the path of the page."""
    write_text(folder / "results.json", benchmark.to_json())
    page, table = folder / "chart.html", folder / "results.md"
    write_page("Speed and memory", _LEAD, sections(benchmark), benchmark.record, page=page, table=table)
    return page


def sections(benchmark: BenchmarkResult) -> list[Section]:
    """One section of a page per setting: table, failures and chart."""
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


def table_rows(benchmark: BenchmarkResult, result: SettingResult) -> list[list[str]]:
    """One row of text per contestant, with the columns :data:`HEADERS`."""
    return [_row(benchmark, measurement, result.baseline) for measurement in result.measurements]


def problems(result: SettingResult) -> list[str]:
    """One sentence for each failure, and for each memory that could not be measured."""
    failures = [f"{one.name} failed: {one.error}" for one in result.measurements if one.error]
    return failures + [
        f"The memory of {one.name} is unknown: {one.memory_error}" for one in result.measurements if one.memory_error
    ]


def _row(benchmark: BenchmarkResult, measurement: Measurement, baseline: Measurement) -> list[str]:
    speed, utilization = measurement.images_per_second, benchmark.utilisation(measurement)
    against, memory = ratio(measurement, baseline), memory_ratio(measurement, baseline)
    return [
        measurement.name,
        f"{speed.median:,.0f}" if speed and speed.median >= 100 else f"{speed.median:.3g}" if speed else FAILED,
        f"{100 * speed.relative:.1f}" if speed else UNKNOWN,
        f"{against.median:.2f}" if against else UNKNOWN,
        f"{against.low:.2f}–{against.high:.2f}" if against else UNKNOWN,
        f"{measurement.memory / 2**20:,.0f}" if measurement.memory is not None else UNKNOWN,
        f"{memory:.2f}" if memory is not None else UNKNOWN,
        f"{100 * utilization:.1f}" if utilization is not None else UNKNOWN,
    ]
