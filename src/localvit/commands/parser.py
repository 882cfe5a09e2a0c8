"""The parser that all commands share."""

import dataclasses
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from jsonargparse import ActionConfigFile, ArgumentParser

from localvit.system.parsing import import_nothing
from localvit.system.plain_files import read_yaml
from localvit.system.shipped import Kind, find, listing
from localvit.system.suggestions import field_names, with_suggestion
from localvit.system.terminal import ERRORS, RESULTS

T = TypeVar("T")


class Parser(ArgumentParser):
    """A parser that suggests the nearest valid name for an unknown option.

    Attributes:
        fields: dotted names of all fields that can be set, including those of optional parts.
    """

    fields: tuple[str, ...] = ()

    def add_config_file(self, help_text: str) -> None:
        """Add the option ``--config``."""
        self.add_argument("--config", action=ActionConfigFile, help=help_text)

    def add_fields(self, config: type, prefix: str | None = None) -> None:
        """Add an option for each field of a dataclass, below ``prefix`` if given."""
        self.add_class_arguments(config, prefix)
        self.fields = (*self.fields, *field_names(config, f"{prefix}." if prefix else ""))

    def add_checkpoint(self) -> None:
        """Add the options that select weights."""
        self.add_argument(
            "--checkpoint",
            type=str,
            required=True,
            help="weights of a run, the authors' weights, hf-hub:USER/NAME, or a file of `localvit export`",
        )
        self.add_argument("--model", type=str | None, default=None, help="model name, for files that do not contain it")
        self.add_argument("--trust", action="store_true", help="run the machine code in a .pt2 file")

    def parse(self, arguments: list[str]) -> Any:
        """Parse and build the dataclasses; ``ValueError`` for a plain value that stands for a group."""
        parsed = self.parse_args(arguments)
        groups = {name.rpartition(".")[0] for name in self.fields} - {""}
        for name in sorted(groups & set(parsed.keys(branches=True))):
            # An optional part may be null, and is no group of the parser.
            if isinstance(parsed[name], str | int | float) or (parsed[name] is None and name in (self.groups or {})):
                raise ValueError(f"{name} is {parsed[name]!r:.100}; it must map the names of its fields to values")
        return self.instantiate(parsed)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with ``message`` and, if possible, a suggestion."""
        if not self.exit_on_error:
            super().error(message, ex)
        # argparse lists its options only here; the tests of suggestions would notice a change.
        names = [*self.fields, *(option.removeprefix("--") for option in self._option_string_actions)]
        for line in (f"usage: {self.usage}", f"error: {with_suggestion(message, names)}"):
            ERRORS.print(line, markup=False, soft_wrap=True)
        raise SystemExit(2)


def command_parser(name: str, usage: str, description: str) -> Parser:
    """A parser for the command ``name``; ``usage`` follows the name."""
    import_nothing()
    program = f"localvit {name}"
    return Parser(prog=program, usage=f"{program} {usage}", description=description, allow_abbrev=False)


def config_from(options: Any, kind: type[T]) -> T:
    """Collect the parsed options of :meth:`Parser.add_fields` into their dataclass."""
    return kind(**{field.name: options[field.name] for field in dataclasses.fields(kind)})  # type: ignore[arg-type]


def named_file_first(arguments: list[str], kind: Kind) -> list[str]:
    """Replace a leading file or name by ``--config FILE``, because the parser reads files only through options."""
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--config", *arguments]
    found = [
        str(find(word, kind)) if before == "--config" else word
        for before, word in zip(["", *arguments], arguments, strict=False)
    ]
    for before, word in zip(["", *found], found, strict=False):
        if before == "--config":
            read_yaml(Path(word))  # the parser itself would follow aliases that grow without end
    return found


def print_listing(kind: Kind, command: str) -> None:
    """Print the shipped files of a kind, one per line."""
    RESULTS.print(f"usage: {command}\n\nGive the path of a YAML file, or one of these names:\n", markup=False)
    files = listing(kind)
    width = max(len(name) for name, _ in files)
    for name, description in files:
        line = f"  {name:<{width}}  {description}"
        RESULTS.print(line, no_wrap=True, overflow="ellipsis", markup=False)
