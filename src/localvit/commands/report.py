"""``localvit report``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from localvit.commands.parser import Parser, command_parser
from localvit.studies import report_studies
from localvit.system.terminal import RESULTS


def parser() -> Parser:
    """Options of the command."""
    parser = command_parser(
        "report",
        "FOLDER [FOLDER ...] [--output FOLDER]",
        "Write the report of a study anew from its folder, or one report for several studies.",
    )
    parser.add_argument(
        "folders", type=str, nargs="+", metavar="FOLDER", help="folders of studies, such as runs/rq1_depthwise-digits"
    )
    parser.add_argument(
        "--output", type=str | None, default=None, help="folder of the report; that of the study by default"
    )
    return parser


def command(options: Any) -> Callable[[], int]:
    """Write the report."""

    def report() -> int:
        output = None if options.output is None else Path(options.output)
        report_studies([Path(folder) for folder in options.folders], output, console=RESULTS)
        return 0

    return report
