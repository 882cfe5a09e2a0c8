"""Takes a picture of a chart of a report, such as the README shows.

    python docs/screenshot.py runs/rq1_depthwise-digits/report.html docs/rq1_depthwise.png

Needs the development extra and a Chromium on the path.
"""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright


def main() -> None:
    """Open the page and save a chart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("report", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--chart", default="learning-curves", help="id of the chart in the page")
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 900, "height": 900}, device_scale_factor=1.5, color_scheme="light")
        page.goto(arguments.report.resolve().as_uri())
        page.wait_for_selector(f"#{arguments.chart} .main-svg")
        page.locator(f"#{arguments.chart}").screenshot(path=arguments.picture)
        browser.close()


if __name__ == "__main__":
    main()
