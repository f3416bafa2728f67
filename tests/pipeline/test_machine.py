from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import seqpack.pipeline.machine
from seqpack.core.check_result import CheckResult
from seqpack.hooks.host import PluginReport
from seqpack.pipeline.machine import check_packages, data_checks, satisfies
from seqpack.text.engines import Choice


@pytest.mark.parametrize(
    ("number", "limits", "fits"),
    [
        ("2.13.0+cpu", ">=2.11,<2.14", True),
        ("2.14.0", ">=2.11,<2.14", False),
        ("2.9", "<2.14,>=2.11", False),
        ("26.0.1", ">=17", True),
        ("0.17.5", "==0.17.5", True),
        ("0.17.50", "==0.17.5", False),
        ("5", ">=5.0.0", True),
        ("2.14.0a0", "<2.14", False),
        ("1.0", "", True),
    ],
)
def test_versions(number: str, limits: str, fits: bool) -> None:
    assert satisfies(number, limits) is fits


def by_name(checks: list[CheckResult]) -> dict[str, CheckResult]:
    return {check.name: check for check in checks}


def test_this_machine_can_prepare_data(tokenizer_dir: Path, tmp_path: Path) -> None:
    checks = by_name(list(data_checks(tokenizer_dir, tmp_path, [])))
    assert list(checks) == ["python", "packages: preparing data", "plugins", "tokenizer", "disk", "limits"]
    assert {check.outcome for check in checks.values()} <= {"passed", "warning"}
    assert "numpy" in checks["packages: preparing data"].seen
    assert "torch" not in checks["packages: preparing data"].seen
    assert "give the same ids as tokenizers" in checks["tokenizer"].seen


def test_packages_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {"torch": "2.15.1", "transformers": None, "safetensors": "0.6"}
    monkeypatch.setattr(seqpack.pipeline.machine, "_installed", numbers.get)
    found = check_packages("training", "train")
    assert found.outcome == "failed"
    assert "torch 2.15.1 is installed, <2.14,>=2.11 is needed" in found.seen
    assert "transformers is not installed" in found.seen and "safetensors" not in found.seen


def test_a_broken_plugin_is_a_warning(tmp_path: Path) -> None:
    plugins = [PluginReport("good", "d", "1", ("h",)), PluginReport("bad", "d", "1", (), "ImportError: no")]
    found = by_name(list(data_checks(None, tmp_path, plugins)))["plugins"]
    assert (found.outcome, found.seen) == ("warning", "not used: bad: ImportError: no")


def test_tokenizers(tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    found = by_name(list(data_checks(tmp_path / "empty", tmp_path, [])))["tokenizer"]
    assert found.outcome == "failed" and "has no tokenizer.json" in found.seen
    shutil.copytree(tokenizer_dir, tmp_path / "t")
    refused = Choice(None, "refused", "fastokens 1: other ids for 'x'")  # type: ignore[arg-type]
    monkeypatch.setattr(seqpack.pipeline.machine, "choose_engine", lambda *a, **k: refused)
    found = by_name(list(data_checks(tmp_path / "t", tmp_path, [])))["tokenizer"]
    assert found.outcome == "warning" and "other ids for 'x'" in found.seen


def test_disk_and_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = by_name(list(data_checks(None, tmp_path / "none", [])))["disk"]
    assert found.outcome == "failed" and "cannot be written to" in found.seen
    monkeypatch.setattr(seqpack.pipeline.machine, "MIN_DISK", 1 << 70)
    monkeypatch.setattr(seqpack.pipeline.machine.resource, "getrlimit", lambda kind: (256, 4096))
    checks = by_name(list(data_checks(None, tmp_path, [])))
    assert checks["disk"].outcome == "warning"
    assert checks["limits"].outcome == "warning" and "ulimit -n 4096" in checks["limits"].seen
