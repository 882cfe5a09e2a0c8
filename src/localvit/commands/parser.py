"""The parser that the commands share."""

import dataclasses
from typing import Any, NoReturn, TypeVar

from jsonargparse import ActionConfigFile, ArgumentParser

from localvit.system.suggestions import field_names, with_suggestion
from localvit.system.terminal import ERRORS

T = TypeVar("T")


class Parser(ArgumentParser):
    """A parser that knows the nearest right name of a wrong option.

    Attributes:
        fields: dotted names of the fields that can be set, those of optional parts too.
    """

    fields: tuple[str, ...] = ()

    def add_config_file(self, help_text: str) -> None:
        """The option ``--config``."""
        self.add_argument("--config", action=ActionConfigFile, help=help_text)

    def add_fields(self, config: type, prefix: str | None = None) -> None:
        """An option for every field of a dataclass, below ``prefix`` if there is one."""
        self.add_class_arguments(config, prefix)
        self.fields = (*self.fields, *field_names(config, f"{prefix}." if prefix else ""))

    def add_checkpoint(self) -> None:
        """The options that say which weights."""
        self.add_argument("--checkpoint", type=str, required=True, help="weights of a run, or of the authors")
        self.add_argument(
            "--model", type=str | None, default=None, help="name of the model, for weights that do not say it"
        )

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with ``message`` and a suggestion."""
        if not self.exit_on_error:
            super().error(message, ex)
        for line in (f"usage: {self.usage}", f"error: {with_suggestion(message, self.fields)}"):
            ERRORS.print(line, markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(2)


def command_parser(name: str, usage: str, description: str) -> Parser:
    """A parser for the command ``name``, with the words of its ``usage`` after the name."""
    program = f"localvit {name}".strip()
    return Parser(prog=program, usage=f"{program} {usage}", description=description, allow_abbrev=False)


def config_from(options: Any, kind: type[T]) -> T:
    """The dataclass that :meth:`Parser.add_fields` made options for, from the options given."""
    return kind(**{field.name: options[field.name] for field in dataclasses.fields(kind)})  # type: ignore[arg-type]


def file_first(arguments: list[str]) -> list[str]:
    """``train FILE`` is short for ``train --config FILE``, as the parser reads configurations by option alone."""
    if arguments and not arguments[0].startswith("-"):
        return ["--config", *arguments]
    return arguments
