"""``--config FILE.yaml``: the same names as the flags, read as defaults that flags override."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from seqpack.core.errors import ConfigError
from seqpack.core.suggest import did_you_mean
from seqpack.options.resolved import Resolved, Source

# Options that say how a run talks, or where its options come from, are not part of what it does.
NOT_RECORDED = frozenset({"config", "help", "json", "quiet", "verbose", "traceback", "overwrite", "resume", "dry_run"})


def load_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Callback of ``--config``: its values become the defaults of this command's flags."""
    if path is not None:
        spellings = _spellings(ctx)
        defaults = {parameter.name: getattr(parameter, "default", None) for parameter in ctx.command.params}
        ctx.default_map = {
            (name := _parameter_name(key, spellings, path)): _as_flag_value(value, defaults[name])
            for key, value in _read(path).items()
            if value is not None
        }
    return path


def resolved_options(ctx: typer.Context, values: dict[str, Any]) -> Resolved:
    """What this command was called with; ``values`` are the options after parsing."""
    recorded = {name: value for name, value in values.items() if name not in NOT_RECORDED}
    return Resolved(ctx.info_name or "", recorded, {name: _source(ctx, name) for name in recorded})


def is_from_config(ctx: typer.Context, name: str) -> bool:
    return _source(ctx, name) == "config"


def _source(ctx: typer.Context, name: str) -> Source:
    source = ctx.get_parameter_source(name)
    kind = source.name if source else "DEFAULT"
    names: dict[str, Source] = {"COMMANDLINE": "flag", "DEFAULT_MAP": "config"}
    return names.get(kind, "default")


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("SP003", f"--config {path} cannot be read: {error}", help="check the path") from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError("SP003", f"--config {path} is not valid YAML: {reason}", help="mend that line") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError("SP003", f"--config {path} must be a mapping of options to values", help="like `pack: true`")
    return value


def _spellings(ctx: typer.Context) -> dict[str, str]:
    """Every way to write a key, with underscores, to the name of its parameter."""
    spellings = {}
    for parameter in ctx.command.params:
        if parameter.name is None or parameter.name in ("config", "help"):
            continue
        for spelling in (parameter.name, *parameter.opts):
            if not spelling.startswith("-") or spelling.startswith("--"):
                spellings[spelling.removeprefix("--").replace("-", "_")] = parameter.name
    return spellings


def _parameter_name(key: Any, spellings: dict[str, str], path: Path) -> str:
    name = spellings.get(str(key).replace("-", "_"))
    if name is None:
        hint = did_you_mean(str(key), spellings)
        raise ConfigError(
            "SP003", f"--config {path}: unknown key {key!r}", help=hint or "keys are this command's flags"
        )
    return name


def _as_flag_value(value: Any, default: Any) -> Any:
    """A mapping, as for ``map_keys``, is what the flag takes as JSON; ``true`` is a word where the flag takes words."""
    if isinstance(value, bool) and isinstance(default, str):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, dict) else value
