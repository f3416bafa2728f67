"""The real torch_npu on a machine without CANN: its wheel in a folder of its own, and link stubs for CANN's libraries.

The stubs are functions that return 0, one for each symbol that torch_npu's libraries look for and nothing here has.
They let the package be imported, with its schemas, its shape functions and no device.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import torch

TOOLS = ("gcc", "nm", "readelf")
ROOT = Path(__file__).parents[2]
SYSTEM = ("libstdc++.so.6", "libc.so.6", "libm.so.6", "libgcc_s.so.1", "libpthread.so.0", "libdl.so.2")


def requirement() -> str:
    """torch_npu for the torch that is installed: its versions follow torch's."""
    major, minor, *_ = torch.__version__.split(".")
    return f"torch_npu=={major}.{minor}.*"


def install(cache_folder: Path) -> Path:
    """A folder with the package and nothing it depends on; LookupError with pip's words if there is no such wheel."""
    target = cache_folder / requirement().replace("==", "-").rstrip(".*")
    if target.is_dir():
        return target
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run(
        [*command, "--target", str(partial), requirement()], capture_output=True, text=True, check=False
    )
    if done.returncode:
        shutil.rmtree(partial, ignore_errors=True)
        raise LookupError((done.stderr.strip().splitlines() or ["pip failed"])[-1])
    partial.rename(target)
    return target


def make_stubs(package: Path) -> Path:
    """A folder with a library of every name that CANN's have, the first of which defines all missing functions."""
    folder = package / "stubs"
    if folder.is_dir():
        return folder
    libraries = [*(package / "torch_npu").glob("_C*.so"), *(package / "torch_npu" / "lib").glob("*.so")]
    needed, undefined = set(), set()
    for library in libraries:
        needed |= set(re.findall(r"NEEDED.*\[(.*)\]", _output("readelf", "-d", library)))
        undefined |= _symbols(library, "--undefined-only")
    names = sorted(name for name in needed if not _is_here(name, package))
    missing = sorted(undefined - _defined(package))
    partial = package / f"stubs.{os.getpid()}"
    partial.mkdir()
    _compile(partial, names[0], "\n".join(map(_stub, missing)))
    for name in names[1:]:
        _compile(partial, name, "")
    partial.rename(folder)
    return folder


def environment(package: Path, stubs: Path | None) -> dict[str, str]:
    """The environment of a process in which torch_npu is installed; without ``stubs`` as one that lacks CANN."""
    found = dict(os.environ, PYTHONPATH=os.pathsep.join([str(package), str(ROOT)]))
    for name in ("TORCH_DEVICE_BACKEND_AUTOLOAD", "ASCEND_HOME_PATH"):
        found.pop(name, None)
    if stubs is not None:
        found["LD_LIBRARY_PATH"] = str(stubs)
    return found


def _stub(symbol: str) -> str:
    if symbol.startswith(("_ZTV", "_ZTI")):  # tables of C++ classes
        return f"char {symbol}[256];"
    if symbol == "aclrtGetDeviceCount":
        return "int aclrtGetDeviceCount(unsigned *count) { *count = 0; return 0; }"
    if symbol == "aclrtGetSocName":
        return 'const char *aclrtGetSocName(void) { return "Ascend910B1"; }'
    return f"int {symbol}() {{ return 0; }}"


def _compile(folder: Path, name: str, text: str) -> None:
    source = folder / f"{name}.c"
    source.write_text(text + "\n", encoding="utf-8")
    options = ["-w", "-shared", "-fPIC", f"-Wl,-soname,{name}"]
    subprocess.run(["gcc", *options, "-o", str(folder / name), str(source)], check=True)


def _is_here(name: str, package: Path) -> bool:
    if re.match(r"(lib(c|m|stdc\+\+|gcc_s|pthread|dl|rt|python[\d.]*)|ld-linux.*)\.so", name):
        return True
    folders = (package / "torch_npu" / "lib", package / "torch_npu.libs", Path(torch.__file__).parent / "lib")
    return any((folder / name).exists() for folder in folders)


def _defined(package: Path) -> set[str]:
    """Every symbol that torch_npu itself, torch, Python or the system's libraries define."""
    files = [*package.glob("torch_npu/*.so"), *package.glob("torch_npu/lib/*.so"), *package.glob("torch_npu.libs/*")]
    files += Path(torch.__file__).parent.glob("lib/*.so*")
    python = Path(sys.executable).resolve()
    files += [python, *(python.parents[1] / "lib").glob("libpython3*.so*")]
    return set[str]().union(*(_symbols(file, "--defined-only") for file in files), _system_symbols())


@cache
def _system_symbols() -> set[str]:
    listed = dict(re.findall(r"(\S+\.so\S*) .* => (\S+)", _output("/sbin/ldconfig", "-p")))
    return set[str]().union(*(_symbols(Path(listed[name]), "--defined-only") for name in SYSTEM if name in listed))


def _symbols(library: Path, which: str) -> set[str]:
    """Names without versions; of those undefined, the ones that linking needs."""
    lines = (line.split() for line in _output("nm", "-D", which, library).splitlines())
    if which == "--undefined-only":
        return {line[-1] for line in lines if line[-2] == "U" and "@" not in line[-1]}
    return {line[-1].split("@")[0] for line in lines}


def _output(*command: str | Path) -> str:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False).stdout
