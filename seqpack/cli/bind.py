"""Option groups to Typer: one declaration serves flags, YAML keys, help and error messages."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from seqpack.cli.config import is_from_config, load_config, resolved_options
from seqpack.core.errors import ConfigError
from seqpack.options.field import flag_names
from seqpack.options.resolved import Resolved

AS_FLAG = "_as_flag"
"""Suffix of the parameter that holds a positional option when it was given as a flag."""


def spread_lists(command: Callable[..., None], arguments: list[str]) -> list[str]:
    """``--json-keys a b`` -> ``--json-keys a --json-keys b``: a flag that takes a list takes all that follows it.

    The systems we replace, and shells that expand ``*``, write lists like that.
    """
    arguments = _without_lone_backslashes(arguments)
    lists = {flag for field, hint in _fields(command) if get_origin(hint) is list for flag in flag_names(field)}
    spread: list[str] = []
    flag, is_first = "", False
    for argument in arguments:
        if argument.startswith("-") and argument != "-":
            flag, is_first = (argument if argument in lists else ""), True
        elif flag and not is_first:
            spread.append(flag)
        else:
            is_first = False
        spread.append(argument)
    return spread


def _without_lone_backslashes(arguments: list[str]) -> list[str]:
    """A shell makes one of a line that ends in a backslash and a blank; scripts of other systems hold such lines."""
    kept = [argument for argument in arguments if argument.strip() != "\\"]
    if len(kept) < len(arguments):
        print("a lone backslash among the arguments was left out: a blank stands behind it", file=sys.stderr)
    return kept


def take_over_run(command: Callable[..., None], arguments: list[str]) -> list[str]:
    """``--resume runs/a`` -> also ``--config runs/a/resolved.yaml --save runs/a``, unless given otherwise."""
    for field, _ in _fields(command):
        for flag in flag_names(field) if field.metadata["run_folder"] else ():
            folder = _value_of(flag, arguments)
            if folder is None or {"--config", "-c"} & {word.partition("=")[0] for word in arguments}:
                continue
            config = Path(folder) / "resolved.yaml"
            if not config.is_file():
                raise ConfigError(
                    "SP209", f"{flag} {folder}: there is no {config}", help="give the directory that was --save"
                )
            return [
                "--config",
                str(config),
                *([] if _value_of("--save", arguments) else ["--save", folder]),
                *arguments,
            ]
    return arguments


def _value_of(flag: str, arguments: list[str]) -> str | None:
    for place, word in enumerate(arguments):
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
        if word == flag and place + 1 < len(arguments):
            return arguments[place + 1]
    return None


def bind(command: Callable[..., None]) -> typer.Typer:
    """A Typer app of one command. Each parameter of ``command`` is an option group and becomes a help panel.

    A parameter of type ``Resolved`` gets the values and their sources instead.
    """
    groups = {name: hint for name, hint in get_type_hints(command).items() if name != "return"}
    options = {name: hint for name, hint in groups.items() if hint is not Resolved}
    fields = [field for group in options.values() for field in dataclasses.fields(group)]

    def run(ctx: typer.Context, config: Path | None, **values: Any) -> None:
        values = _merge_positionals(ctx, fields, values)
        resolved = resolved_options(ctx, values)
        built = {name: _build(hint, values, resolved) for name, hint in groups.items()}
        command(**built)

    parameters = [_CONTEXT, *_parameters(options), _CONFIG]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    settings = {"help_option_names": ["-h", "--help"]}
    app.command(name=command.__name__, help=_help_text(command), context_settings=settings)(run)
    return app


_CONTEXT = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
_CONFIG = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            is_eager=True,
            callback=load_config,
            metavar="FILE.yaml",
            help="Options from a file, under the same names; flags override it.",
            rich_help_panel="Messages",
        ),
    ],
)


def _fields(command: Callable[..., None]) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    """All options of a command with their types."""
    for name, group in get_type_hints(command).items():
        if name != "return" and group is not Resolved:
            hints = get_type_hints(group)
            yield from ((field, hints[field.name]) for field in dataclasses.fields(group))


def _build(group: type[Any], values: dict[str, Any], resolved: Resolved) -> Any:
    if group is Resolved:
        return resolved
    return group(**{field.name: values[field.name] for field in dataclasses.fields(group)})


def _parameters(groups: dict[str, type[Any]]) -> Iterator[inspect.Parameter]:
    owner: dict[str, str] = {}
    for group in groups.values():
        hints = get_type_hints(group)
        for field in dataclasses.fields(group):
            assert field.name not in owner, f"{field.name}: in {owner[field.name]} and in {group.__name__}"
            owner[field.name] = group.__name__
            yield from _field_parameters(field, hints[field.name], panel=group.__doc__ or "Options")


def _field_parameters(field: dataclasses.Field[Any], hint: Any, *, panel: str) -> Iterator[inspect.Parameter]:
    names = _with_negation(field, hint)
    if not field.metadata["positional"]:
        yield _keyword(field.name, hint, typer.Option(*names, **_settings(field, panel)), _default(field))
        return
    argument = typer.Argument(show_default=False, help=field.metadata["help"], metavar=_metavar(field))
    optional = hint if get_origin(hint) is list else hint | None
    empty: list[Any] | None = [] if get_origin(hint) is list else None
    yield _keyword(field.name, optional, argument, empty)
    flag = typer.Option(*names, **(_settings(field, panel) | {"hidden": True}))
    yield _keyword(field.name + AS_FLAG, optional, flag, empty)


def _settings(field: dataclasses.Field[Any], panel: str) -> dict[str, Any]:
    meta = field.metadata
    return {
        "help": meta["help"],
        "rich_help_panel": panel,
        "min": meta["min"],
        "max": meta["max"],
        "metavar": meta["metavar"],
        "hidden": meta["hidden"],
        "show_default": field.default is not None and field.default is not False,
    }


def _metavar(field: dataclasses.Field[Any]) -> str:
    return str(field.metadata["metavar"] or field.name.upper())


def _keyword(name: str, hint: Any, info: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[hint, info])


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default


def _with_negation(field: dataclasses.Field[Any], hint: Any) -> list[str]:
    """``--pack`` becomes ``--pack/--no-pack``, so that a flag can take back what a file switched on."""
    first, *others = flag_names(field)
    is_bool = hint is bool or bool in get_args(hint)
    if is_bool and field.metadata["negation"]:
        first = f"{first}/--no-{first.removeprefix('--')}"
    return [first, *others]


def _merge_positionals(
    ctx: typer.Context, fields: list[dataclasses.Field[Any]], values: dict[str, Any]
) -> dict[str, Any]:
    """One value per positional option, from the argument or its flag; both override a configuration file."""
    merged = dict(values)
    for field in fields:
        if field.metadata["positional"]:
            as_argument, as_flag = merged[field.name], merged.pop(field.name + AS_FLAG)
            flag = flag_names(field)[0]
            if as_flag and is_from_config(ctx, field.name):
                as_argument = None
            if as_argument and as_flag:
                raise ConfigError("SP001", f"{_metavar(field)} is given both as an argument and with {flag}")
            if not (as_argument or as_flag) and _default(field) is inspect.Parameter.empty:
                raise ConfigError("SP001", f"{_metavar(field)} is missing", help=f"{field.metadata['help']}")
            merged[field.name] = as_argument or as_flag
    return merged


def _help_text(command: Callable[..., None]) -> str:
    """The docstring, wrapped anew; its examples keep their line breaks and lose nothing to markup."""
    text, examples, block = inspect.getdoc(command).partition("Examples:\n")  # type: ignore[union-attr]
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    if not examples:
        return text
    lines = "\n".join(
        f"[cyan]{line.strip().replace('[', chr(92) + '[')}[/cyan]\n" for line in block.strip().splitlines()
    )
    return f"{text.strip()}\n\n[bold]Examples[/bold]\n\n{lines}"
