"""From ``--prompt-type`` to a template that is ready for a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from seqpack.core.errors import ConfigError, PluginError
from seqpack.core.suggest import did_you_mean
from seqpack.hooks.component import Component
from seqpack.hooks.host import plugin_host
from seqpack.hooks.specs import PromptTemplate
from seqpack.options.data import TextOptions
from seqpack.text.mindspeed_json import from_mindspeed
from seqpack.text.template import TextTemplate
from seqpack.text.template_file import parse_template, template_from
from seqpack.text.tokenizer import Tokenizer

CHAT_TEMPLATE = "chat-template"
YAML_SUFFIXES = (".yaml", ".yml")
SUFFIXES = (*YAML_SUFFIXES, ".json", ".jinja")


@dataclass(frozen=True, slots=True)
class OpenedTemplate:
    """A template as a run uses it. ``text`` is what it was made from, None for a Python class.

    ``eos_token_id`` is the token a reply ends with; ``note`` is a sentence worth showing, or empty.
    """

    name: str
    template: PromptTemplate
    text: str | None
    eos_token_id: int | None
    note: str = ""


def open_template(options: TextOptions, tokenizer: Tokenizer) -> OpenedTemplate:
    """The template ``--prompt-type`` names, of the user's own first.

    Raises ConfigError for a name that is not known (with the nearest one), a file that is no template, or a tokenizer
    without the tokens the template is made of; PluginError for a broken plugin.
    """
    mine = find_users(options)
    name = options.prompt_type
    if name in mine:
        return _open_users(mine[name], options, tokenizer)
    if name == CHAT_TEMPLATE:
        return _open_chat(_chat_source(options, tokenizer), CHAT_TEMPLATE, options, tokenizer)
    component = _find(name, mine)
    template = load_template(component, tokenizer)
    eos_token_id, note = tokenizer.eos_token_id, ""
    if isinstance(template, TextTemplate):
        eos_token_id = template.check_tokens(tokenizer, name=component.name)
        template = _with_choices(template, options, component.name)
    elif options.thinking is not None:
        note = f"template {component.name!r} decides about thoughts itself; --enable-thinking changes nothing"
    return OpenedTemplate(component.name, template, template_text(component), eos_token_id, note)


def find_users(options: TextOptions) -> dict[str, UserTemplate]:
    """The templates of ``--prompt-type-path`` by name; ConfigError as ``open_template``."""
    return _users(options.prompt_type_path) if options.prompt_type_path else {}


def check_template(options: TextOptions) -> str:
    """The name of the template, as far as it can be checked without a tokenizer: errors as ``open_template``."""
    mine = find_users(options)
    name = options.prompt_type
    if name == CHAT_TEMPLATE or name in mine:
        return name
    component = _find(name, mine)
    text = template_text(component)
    if text is not None:
        _with_choices(parse_template(text), options, component.name)
    return component.name


def load_template(component: Component[PromptTemplate], tokenizer: Tokenizer) -> PromptTemplate:
    """The template behind a name, with this tokenizer's tokens filled in.

    Raises PluginError for a broken file, ConfigError if the template needs an end token and the tokenizer has none.
    """
    text = template_text(component)
    if text is None:
        template: PromptTemplate = component.create()
        return template
    try:
        parsed = parse_template(text)
    except ConfigError as error:
        raise PluginError(error.code, f"template {component.name!r} ({component.target}): {error.message}") from error
    return _with_tokens(parsed, tokenizer, component.name)


def template_text(component: Component[PromptTemplate]) -> str | None:
    """The YAML of a template that is a file, None for one that is a Python class."""
    if not component.target.endswith(YAML_SUFFIXES):
        return None
    package, colon, name = component.target.partition(":")
    try:
        source = files(package).joinpath(name) if colon else Path(component.target)
        return source.read_text(encoding="utf-8")
    except Exception as error:  # reading a file of a package imports the package, which may do anything
        raise PluginError("SP012", f"template file {component.target} of {component.plugin!r}: {error}") from error


@dataclass(frozen=True, slots=True)
class UserTemplate:
    """A template of ``--prompt-type-path``: where it stands, its text, and the ending of its file."""

    name: str
    place: str
    text: str
    suffix: str


def _users(path: Path) -> dict[str, UserTemplate]:
    """The templates of ``--prompt-type-path`` by name; ConfigError if there are none, or two of one name."""
    if path.is_dir():
        paths = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    elif path.suffix in SUFFIXES:
        paths = [path]
    else:
        raise ConfigError("SP017", f"--prompt-type-path: {path} is neither a folder nor a {' '.join(SUFFIXES)} file")
    found: dict[str, UserTemplate] = {}
    for template in (template for file in paths for template in _of_file(file)):
        if template.name in found:
            places = f"{found[template.name].place} and {template.place}"
            raise ConfigError("SP017", f"--prompt-type-path: {template.name!r} is in {places}", help="rename one")
        found[template.name] = template
    if not found:
        raise ConfigError("SP017", f"--prompt-type-path: {path} has no {' '.join(SUFFIXES)} file")
    return found


def _of_file(path: Path) -> Iterator[UserTemplate]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("SP017", f"--prompt-type-path: {path} cannot be read: {error}") from error
    if path.suffix != ".json":
        yield UserTemplate(path.stem, str(path), text, path.suffix)
        return
    try:
        entries: Any = json.loads(text)
    except ValueError as error:
        raise ConfigError("SP017", f"--prompt-type-path: {path} is not valid JSON: {error}") from error
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and isinstance(e.get("name"), str) for e in entries
    ):
        raise ConfigError("SP017", f"--prompt-type-path: {path} is not a list of objects with a name")
    for entry in entries:
        yield UserTemplate(entry["name"], str(path), json.dumps(entry, ensure_ascii=False), path.suffix)


def _open_users(mine: UserTemplate, options: TextOptions, tokenizer: Tokenizer) -> OpenedTemplate:
    if mine.suffix == ".jinja":
        return _open_chat(mine.text, mine.name, options, tokenizer)
    try:
        is_json = mine.suffix == ".json"
        parsed = template_from(from_mindspeed(json.loads(mine.text))) if is_json else parse_template(mine.text)
    except ConfigError as error:
        raise ConfigError(error.code, f"template {mine.name!r} in {mine.place}: {error.message}") from error
    template = _with_tokens(parsed, tokenizer, mine.name)
    eos_token_id = template.check_tokens(tokenizer, name=mine.name)
    return OpenedTemplate(mine.name, _with_choices(template, options, mine.name), mine.text, eos_token_id)


def _find(name: str, mine: dict[str, UserTemplate]) -> Component[PromptTemplate]:
    host = plugin_host()
    known = [*mine, CHAT_TEMPLATE, *host.templates.names()]
    try:
        return host.template(name)
    except ConfigError as error:
        yours = f"in --prompt-type-path: {', '.join(mine)}" if mine else ""
        listed = ", ".join(template.name for template in host.templates)
        lost = f"not loaded: {', '.join(host.failed)} (see: seqpack plugins)" if host.failed else ""
        hints = (did_you_mean(name, known), yours, f"known: {CHAT_TEMPLATE}, {listed}", lost)
        raise ConfigError(error.code, error.message, help="; ".join(filter(None, hints))) from error


def _with_tokens(template: TextTemplate, tokenizer: Tokenizer, name: str) -> TextTemplate:
    if template.needs_eos() and tokenizer.eos_token is None:
        raise ConfigError(
            "SP016",
            f"template {name!r} ends replies with the end-of-text token; {tokenizer.directory} names none",
            help="add eos_token to its tokenizer_config.json",
        )
    return template.with_tokens(bos=tokenizer.bos_token, eos=tokenizer.eos_token)


def _with_choices(template: TextTemplate, options: TextOptions, name: str) -> TextTemplate:
    if options.thinking is not None and template.thoughts is None:
        raise ConfigError(
            "SP019",
            f"--enable-thinking {options.enable_thinking}: template {name!r} has no thoughts",
            help="leave the flag out, or choose a template with thoughts, such as qwen3",
        )
    return replace(template, thinking=options.thinking, train_prompts=options.trained == "all")


def _chat_source(options: TextOptions, tokenizer: Tokenizer) -> str:
    from seqpack.text.chat_template import chat_template_source

    path = options.prompt_type_path
    if path is not None and path.suffix == ".jinja":
        return path.read_text(encoding="utf-8")
    return chat_template_source(tokenizer)


def _open_chat(source: str, name: str, options: TextOptions, tokenizer: Tokenizer) -> OpenedTemplate:
    # imported here: Jinja takes a tenth of a second that no other template needs
    from seqpack.text.chat_template import ChatTemplate

    template = ChatTemplate(
        source,
        tokenizer.bos_token or "",
        tokenizer.eos_token or "",
        options.thinking,
        options.trained == "all",
    )
    how = "its {% generation %} marks" if template.has_marks else "what each reply adds to the text before it"
    note = f"chat template: what is trained on is taken from {how}"
    return OpenedTemplate(name, template, source, tokenizer.eos_token_id, note)
