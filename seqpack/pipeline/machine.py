"""Is what preparing data needs on this machine? Versions, plugins, tokenizers, disk and limits; free of torch."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from importlib.metadata import version as installed_version
from pathlib import Path

from seqpack.core.check_result import CheckResult
from seqpack.core.errors import SeqpackError
from seqpack.hooks.host import PluginReport
from seqpack.text.engines import EngineName, choose_engine
from seqpack.text.tokenizer import Tokenizer

DISTRIBUTION = "seqpack-toolkit"
ENGINES: tuple[EngineName, ...] = ("fastokens", "gigatoken")
MIN_DISK, MIN_FILES = 2 * 2**30, 1024
TEXTS = (
    "Hello, world!  Two  blanks.",
    "def f(x):\n\treturn x**2\n",
    "你好，世界。 Grüße, naïve café 🙂",
    "a" * 300,
    " \n\n ",
)
"""What engines are compared on, beside every added token."""


def data_checks(tokenizer: Path | None, disk: Path, plugins: list[PluginReport]) -> Iterator[CheckResult]:
    """One result after the other; none of them raises."""
    yield CheckResult("python", "passed", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield check_packages("preparing data", "")
    yield _check_plugins(plugins)
    yield _check_tokenizer(tokenizer)
    yield _check_disk(disk)
    yield _check_limits()


def check_packages(what: str, extra: str, names: tuple[str, ...] = ()) -> CheckResult:
    """Installed versions of what ``extra`` (none: seqpack itself) asks for; those that do not fit fail.

    ``names`` limits them to some.
    """
    wrong, fine = [], []
    for requirement in requires(DISTRIBUTION) or ():
        wanted, _, marker = requirement.partition(";")
        found = re.match(r"[A-Za-z0-9._-]+", wanted)
        if found is None or (f"extra == '{extra}'" not in marker if extra else marker):
            continue
        name, limits = found[0], wanted[found.end() :].strip()
        if names and name not in names:
            continue
        number = _installed(name)
        if number is None:
            wrong.append(f"{name} is not installed")
        elif not satisfies(number, limits):
            wrong.append(f"{name} {number} is installed, {limits} is needed")
        else:
            fine.append(f"{name} {number}")
    return CheckResult.of(f"packages: {what}", "; ".join(wrong), ", ".join(fine))


def satisfies(number: str, limits: str) -> bool:
    """Whether a version lies within limits such as ``>=2.11,<2.14``; what stands behind its numbers does not count."""
    compare = {">=": lambda a, b: a >= b, "<": lambda a, b: a < b, "==": lambda a, b: a == b}
    for limit in filter(None, (part.strip() for part in limits.split(","))):
        sign = next(sign for sign in (">=", "<", "==") if limit.startswith(sign))
        found, wanted = _numbers(number), _numbers(limit.removeprefix(sign))
        width = max(len(found), len(wanted))
        padded = [numbers + (0,) * (width - len(numbers)) for numbers in (found, wanted)]
        if not compare[sign](*padded):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.match(r"\d+(\.\d+)*", version.strip())[0].split("."))  # type: ignore[index]


def _installed(name: str) -> str | None:
    try:
        return installed_version(name)
    except PackageNotFoundError:
        return None


def _check_plugins(plugins: list[PluginReport]) -> CheckResult:
    broken = [f"{plugin.name}: {plugin.error}" for plugin in plugins if plugin.error]
    if broken:
        return CheckResult("plugins", "warning", f"not used: {'; '.join(broken)}")
    names = ", ".join(plugin.name for plugin in plugins)
    return CheckResult("plugins", "passed", names or "none but those of seqpack")


def _check_tokenizer(directory: Path | None) -> CheckResult:
    """Which engines there are; with a tokenizer, whether each gives its ids."""
    found = {name: number for name in ENGINES if (number := _installed(name))}
    engines = ", ".join(f"{name} {number}" for name, number in found.items())
    if directory is None:
        hint = "" if found else '; a faster engine: pip install "seqpack-toolkit[fast]"'
        listed = f"tokenizers {_installed('tokenizers')}{', ' if engines else ''}{engines}"
        return CheckResult("tokenizer", "passed", f"{listed}{hint}; --tokenizer DIR compares them")
    try:
        tokenizer = Tokenizer(directory)
        tokenizer.load()
        choices = [choose_engine(tokenizer, name, pieces=lambda: TEXTS) for name in found]
    except SeqpackError as error:
        return CheckResult("tokenizer", "failed", error.message)
    if refused := [choice.refused for choice in choices if choice.refused]:
        return CheckResult("tokenizer", "warning", f"{'; '.join(refused)}: tokenizers is used, which is slower")
    agree = f"{engines} give the same ids as tokenizers" if found else "read by tokenizers; no fast engine is installed"
    return CheckResult("tokenizer", "passed", f"{directory}: {tokenizer.vocab_size:,} ids; {agree}")


def _check_disk(directory: Path) -> CheckResult:
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return CheckResult("disk", "failed", f"{directory.absolute()} cannot be written to: {error.strerror}")
    free = shutil.disk_usage(directory).free
    places = [f"{directory.absolute()} has {free / 2**30:,.1f} GiB free"]
    temporary = Path(tempfile.gettempdir())
    free = min(free, left := shutil.disk_usage(temporary).free)
    places.append(f"{temporary} {left / 2**30:,.1f} GiB")
    return CheckResult("disk", "passed" if free >= MIN_DISK else "warning", ", ".join(places))


def _check_limits() -> CheckResult:
    """Open files (one for each worker's shard, socket and library) and memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    seen = f"{cores} cores, {memory / 2**30:,.1f} GiB memory, {soft:,} open files"
    if soft < MIN_FILES:
        return CheckResult("limits", "warning", f"{seen}: raise them with ulimit -n {min(hard, 65_536)}")
    return CheckResult("limits", "passed", seen)
