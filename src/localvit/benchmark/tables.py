"""A setting's measurements as the texts of a table, for a terminal, for Markdown and for a page."""

from localvit.benchmark.result import BenchmarkResult, Measurement, SettingResult, Spread, memory_ratio, ratio

HEADERS = ("model", "images/s", "IQR %", "ratio", "quartiles", "MiB", "MiB ratio", "MFU %")
FAILED, UNKNOWN = "failed", "–"


def table_rows(benchmark: BenchmarkResult, result: SettingResult) -> list[list[str]]:
    """A row each contestant: rate, its spread, ratio to the baseline with its quartiles, memory and utilisation."""
    return [_row(benchmark, measurement, result.baseline) for measurement in result.measurements]


def problems(result: SettingResult) -> list[str]:
    """A sentence for each contestant that failed, in whole or with its memory."""
    sentences = [
        f"{measurement.name} failed: {measurement.error}" for measurement in result.measurements if measurement.error
    ]
    sentences += [
        f"The memory of {measurement.name} is not known: {measurement.memory_error}"
        for measurement in result.measurements
        if measurement.memory_error
    ]
    return sentences


def _row(benchmark: BenchmarkResult, measurement: Measurement, baseline: Measurement) -> list[str]:
    speed, utilisation = measurement.images_per_second, benchmark.utilisation(measurement)
    against, memory = ratio(measurement, baseline), memory_ratio(measurement, baseline)
    return [
        measurement.name,
        rate_text(speed) if speed else FAILED,
        f"{100 * speed.relative:.1f}" if speed else UNKNOWN,
        f"{against.median:.2f}" if against else UNKNOWN,
        f"{against.low:.2f}–{against.high:.2f}" if against else UNKNOWN,
        f"{measurement.memory / 2**20:,.0f}" if measurement.memory is not None else UNKNOWN,
        f"{memory:.2f}" if memory is not None else UNKNOWN,
        f"{100 * utilisation:.1f}" if utilisation is not None else UNKNOWN,
    ]


def rate_text(speed: Spread) -> str:
    """Images a second, with enough digits to compare."""
    return f"{speed.median:,.0f}" if speed.median >= 100 else f"{speed.median:.3g}"
