"""``seqpack version``."""

from __future__ import annotations

from seqpack.options.output import OutputOptions

PACKAGES = ("numpy", "pyarrow", "tokenizers", "typer", "torch", "transformers", "torch_npu", "datasets")


def version(output: OutputOptions) -> None:
    """Versions of seqpack and of what it uses; none of them is imported.

    Examples:
        seqpack version
        seqpack version --json
        seqpack --version
    """
    import platform
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed_version

    from seqpack import __version__
    from seqpack.report.console import Console

    versions: dict[str, str | None] = {"seqpack": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = installed_version(package)
        except PackageNotFoundError:
            versions[package] = None
    console = Console(output)
    for name, value in versions.items():
        console.show(f"{name:13s} {value or '- not installed'}")
    console.result({"versions": versions})
