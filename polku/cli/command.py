"""Commands made of functions: their parameters, annotated with what the help says, become arguments and options.

`click` parses and writes the help. A library on top of it that reads the same annotations took 0.1 s and 7 MB more at
each start, a fifth of an inline gateway, for the validator that it loads.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import click

Exit = click.exceptions.Exit
F = TypeVar("F", bound=Callable[..., None])


@dataclass(frozen=True, slots=True)
class Argument:
    """What the help says about a parameter that stands in its place: `Annotated[str, Argument(help="…")]`."""

    help: str = ""
    metavar: str | None = None


class Option:
    """What the help says about a parameter that is named: `Annotated[bool, Option("--all", help="…")]`.

    Without a flag it is `--` and the parameter's name, and for a bool `--no-` and the name as well.
    """

    def __init__(
        self,
        *flags: str,
        help: str = "",
        metavar: str | None = None,
        envvar: str | None = None,
        min: float | None = None,
        max: float | None = None,
    ) -> None:
        self.flags = flags
        self.help = help
        self.metavar = metavar
        self.envvar = envvar
        self.min = min
        self.max = max


class Options:
    """Several options that belong together: `Annotated[Kind, Options()]`, where `Kind` is a `NamedTuple` of them."""


class App:
    """A group of commands; `group` is what click runs."""

    def __init__(self, help: str, *, version: str = "") -> None:
        self.group = _Group(help=help, no_args_is_help=True)
        if version:
            self.group.params.append(_version(version))

    def command(self, name: str | None = None, *, epilog: str | None = None) -> Callable[[F], F]:
        """Make a command of a function, which stays as it is; its docstring is the help."""

        def register(function: F) -> F:
            title = name or function.__name__.replace("_", "-")
            self.group.add_command(_command(function, title, epilog))
            return function

        return register

    def add_later(self, **homes: str) -> None:
        """Have commands by their names, each from `module:attribute`: a function, or an app that is, or has, it.

        The module is imported when its command is called, or listed.
        """
        self.group.homes.update(homes)

    def load(self) -> None:
        """Import all commands."""
        for name in self.group.homes:
            self.group.load(name)

    def __call__(self) -> None:
        """Run the command that the program was called with."""
        self.group(prog_name="polku")


class _Group(click.Group):
    """A group that loads a command when it is called, and all of them only where its help lists them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.homes: dict[str, str] = {}

    def load(self, name: str) -> None:
        """Make the command of a name of what its module has."""
        module, _, attribute = self.homes[name].partition(":")
        found = getattr(import_module(module), attribute)
        if isinstance(found, App):
            self.add_command(found.group.commands.get(name, found.group), name)
        else:
            self.add_command(_command(found, name, None))

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted({*super().list_commands(ctx), *self.homes})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a name."""
        if cmd_name in self.homes and cmd_name not in self.commands:
            self.load(cmd_name)
        return super().get_command(ctx, cmd_name)


def _version(text: str) -> click.Option:
    def show(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
        if wanted:
            print(f"polku {text}")
            context.exit()

    return click.Option(
        ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=show, help="Show the version."
    )


def _command(function: Callable[..., None], name: str, epilog: str | None) -> click.Command:
    found: list[click.Parameter] = []
    converters: dict[str, Callable[[Any], Any]] = {}
    groups: dict[str, Callable[..., Any]] = {}

    def add(owner: Callable[..., Any]) -> list[str]:
        hints, parameters = get_type_hints(owner, include_extras=True), inspect.signature(owner).parameters
        for name, parameter in parameters.items():
            kind, described = _annotation(hints[name])
            if isinstance(described, Options):
                groups[name] = partial(_grouped, kind, add(kind))
            else:
                made, converters[name] = _parameter(parameter, kind, described)
                found.append(made)
        return list(parameters)

    add(function)

    def call(**values: Any) -> None:
        given = _converted(values, converters)
        for name, make in groups.items():
            given[name] = make(given)
        function(**given)

    help_text = inspect.cleandoc(function.__doc__ or "")
    return click.Command(name, params=found, callback=call, help=help_text, epilog=epilog)


def _grouped(kind: Callable[..., Any], names: Sequence[str], given: dict[str, Any]) -> Any:
    """Take the values of some options out of the given ones, and make one of them."""
    return kind(**{name: given.pop(name) for name in names})


def _converted(values: Mapping[str, Any], converters: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    return {name: converters[name](value) if value is not None else None for name, value in values.items()}


def _annotation(hint: Any) -> tuple[Any, Any]:
    """Return the type, without its `| None`, and what is said about it."""
    if get_origin(hint) is not Annotated:
        raise TypeError(f"{hint!r} is not annotated with an Argument or an Option")
    kind, described = get_args(hint)
    if get_origin(kind) in (types.UnionType, Union):
        (kind,) = (one for one in get_args(kind) if one is not type(None))
    return kind, described


def _parameter(
    parameter: inspect.Parameter, kind: Any, described: Argument | Option
) -> tuple[click.Parameter, Callable[[Any], Any]]:
    """Return click's parameter, and what turns its value into the function's."""
    many = get_origin(kind) is list
    one = get_args(kind)[0] if many else kind
    default = parameter.default.value if isinstance(parameter.default, Enum) else parameter.default
    required = default is inspect.Parameter.empty
    type_, convert = _type(one, described)
    value = (lambda values: [convert(value) for value in values] or None) if many else convert
    shared: dict[str, Any] = {"metavar": described.metavar, "help": described.help, "required": required}
    if not required and not many:
        shared["default"] = default
    if isinstance(described, Argument):
        return _Argument([parameter.name], type=type_, nargs=-1 if many else 1, **shared), value
    dashed = f"--{parameter.name.replace('_', '-')}"
    flags = described.flags or ((f"{dashed}/--no-{dashed[2:]}",) if one is bool else (dashed,))
    option = click.Option(
        [parameter.name, *flags],
        type=None if one is bool else type_,
        is_flag=one is bool,
        show_default=one is not bool and default not in (None, "", 0),
        multiple=many,
        envvar=described.envvar,
        **shared,
    )
    return option, value


class _Argument(click.Argument):
    """An argument that the help describes, as it does an option."""

    def __init__(self, *arguments: Any, help: str = "", **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.help = help

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        """Return the name and the text, which stand next to those of the options."""
        return self.make_metavar(ctx), self.help or ""


def _type(kind: Any, described: Argument | Option) -> tuple[click.ParamType[Any], Callable[[Any], Any]]:
    """Return click's type of one value, and what makes the function's value of it."""
    least, most = (described.min, described.max) if isinstance(described, Option) else (None, None)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return click.Choice([member.value for member in kind]), kind
    if kind is Path:
        return click.STRING, Path
    if kind is int:
        return (click.INT if least is most is None else click.IntRange(_whole(least), _whole(most))), int
    if kind is float:
        return (click.FLOAT if least is most is None else click.FloatRange(least, most)), float
    return (click.BOOL if kind is bool else click.STRING), kind


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)
