"""Save charts of a report or benchmark page as pictures.

    python docs/screenshot.py runs/rq1_depthwise-digits/report.html docs/rq1_depthwise.png --chart learning-curves
    python docs/screenshot.py benchmarks/results/scaling.html benchmarks/results     # every chart, as SVG

Needs the development extra and Chromium on the path.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from playwright.sync_api import Page, sync_playwright

_WIDTH = 800  # pixels of an SVG
# Plotly draws what is on the page once more, without its buttons, for a given width.
_TO_SVG = "([id, width]) => { const chart = document.getElementById(id); return Plotly.toImage(chart, " \
    "{format: 'svg', width: width, height: chart.layout.height}); }"  # fmt: skip


def save_charts(page_file: Path, folder: Path, charts: Sequence[str] = ()) -> list[Path]:
    """Save charts of an HTML page as ``folder/PAGE-CHART.svg``; all of them unless their ids are given."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = _open(browser.new_page(color_scheme="light"), page_file)
        charts = charts or page.eval_on_selector_all(".plotly-graph-div", "found => found.map(one => one.id)")
        saved = []
        for chart in charts:
            _, _, content = page.evaluate(_TO_SVG, [chart, _WIDTH]).partition(",")
            saved.append(folder / f"{page_file.stem}-{chart.removeprefix('chart-')}.svg")
            saved[-1].write_text(unquote(content))
        browser.close()
    return saved


def save_picture(page_file: Path, picture: Path, chart: str) -> None:
    """Save one chart as the page shows it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        size = {"width": 900, "height": 900}
        page = _open(browser.new_page(viewport=size, device_scale_factor=1.5, color_scheme="light"), page_file)  # type: ignore[arg-type]
        page.locator(f"#{chart}").screenshot(path=picture)
        browser.close()


def _open(page: Page, file: Path) -> Page:
    page.goto(file.resolve().as_uri())
    page.wait_for_selector(".main-svg")
    return page


def main() -> None:
    """Save one chart or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("target", type=Path, help="a PNG, or a folder for SVGs")
    parser.add_argument("--chart", help="id of a chart in the page")
    options = parser.parse_args()
    if options.target.suffix == ".png":
        save_picture(options.page, options.target, options.chart or "learning-curves")
    else:
        save_charts(options.page, options.target, [options.chart] if options.chart else [])


if __name__ == "__main__":
    main()
