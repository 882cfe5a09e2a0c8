"""``localvit report``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from localvit.commands.parser import Parser, command_parser
from localvit.system.terminal import RESULTS


def parser() -> Parser:
    """Options of the command."""
    parser = command_parser(
        "report",
        "FOLDER [FOLDER ...] [--output FOLDER]",
        "Rewrite the report of a study from its folder, or combine several studies in one report.",
    )
    parser.add_argument(
        "folders", type=str, nargs="+", metavar="FOLDER", help="study folders, such as runs/rq1_depthwise-digits"
    )
    parser.add_argument(
        "--output", type=str | None, default=None, help="folder for the report (default: the folder of the study)"
    )
    return parser


def command(options: Any) -> Callable[[], int]:
    """Write the report."""
    from localvit.studies.study import report_studies

    def report() -> int:
        output = None if options.output is None else Path(options.output)
        report_studies([Path(folder) for folder in options.folders], output, console=RESULTS)
        return 0

    return report
