"""The example plugin, installed beside seqpack and used through the real command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from tokenizers.decoders import ByteLevel

from seqpack.api import IGNORE_INDEX, MaskMode, PackedDataset

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "examples" / "acme-plugin"
SEQ_LENGTH = 512
TICKETS = [
    {"subject": f"Rocket skates {number}", "body": "They do not stop. " * (number % 7), "answer": f"Sorry, {number}."}
    for number in range(40)
]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the plugin in it, as pip installs it."""
    folder = tmp_path_factory.mktemp("site")
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet")
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", str(folder), str(PLUGIN)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory) -> Path:
    """A tokenizer that knows ChatML's control tokens, and bytes."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([ticket["body"] for ticket in TICKETS], trainer)
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}', encoding="utf-8")
    return folder


@pytest.fixture
def tickets(tmp_path) -> Path:
    path = tmp_path / "tickets.jsonl"
    rows = [*TICKETS, {"subject": "Anvil", "body": "Too light.", "answer": ""}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def seqpack(*arguments: str | Path, path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "SEQPACK_LOAD_PLUGINS"}
    return subprocess.run(
        [sys.executable, "-m", "seqpack", *map(str, arguments)],
        env=environment | {"PYTHONPATH": str(path)} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def preprocess(tickets: Path, tokenizer_folder: Path, out: Path, *, handler: str = "acme:tickets") -> list[str | Path]:
    chosen = ("--handler", handler, "--prompt-type", "acme-chat", "--strategy", "longest-first")
    size = ("--seq-length", str(SEQ_LENGTH), "--neat-pack")
    return ["preprocess", tickets, *chosen, *size, "--tokenizer", tokenizer_folder, "-o", out, "--json"]


def break_a_plugin(folder: Path) -> None:
    """Put a distribution into ``folder`` whose plugin module cannot be imported."""
    info = folder / "seqpack_broken-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: seqpack-broken\nVersion: 9.9\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[seqpack]\nbroken = seqpack_broken\n", encoding="utf-8")
    (folder / "seqpack_broken.py").write_text("import package_that_is_not_there\n", encoding="utf-8")


def listed(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def test_its_components_are_listed(site):
    value = listed(seqpack("plugins", "--json", path=site))
    found = [
        (kind, component["name"])
        for kind in ("handlers", "templates", "strategies", "weight converters")
        for component in value[kind]
        if component["plugin"] == "acme"
    ]
    assert found == [
        ("handlers", "tickets"),
        ("templates", "acme-chat"),
        ("strategies", "longest-first"),
        ("weight converters", "acme"),
    ]
    (report,) = value["plugins"]
    assert (report["name"], report["distribution"], report["error"]) == ("acme", "seqpack-acme", "")


def test_a_set_is_made_with_all_three(site, tickets, tokenizer_folder, tmp_path):
    listed(seqpack(*preprocess(tickets, tokenizer_folder, tmp_path / "packs"), path=site))

    data = PackedDataset.open(tmp_path / "packs")
    manifest = data.manifest
    assert (manifest.recipe["handler"], manifest.recipe["prompt_type"]) == ("tickets", "acme-chat")
    assert (manifest.strategy, manifest.mask) == ("longest-first", MaskMode.BLOCK_CAUSAL)
    assert manifest.ledger.rejected == {"ticket without an answer": 1}
    assert sorted(data.pieces.line.tolist()) == list(range(1, len(TICKETS) + 1))
    assert len(data) < len(TICKETS) / 2

    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    for row in range(len(data)):
        pack = data[row]
        pieces = data.pieces.line[data.offsets[row] : data.offsets[row + 1]]
        for line, first, last in zip(pieces, pack.cu_seqlens, pack.cu_seqlens[1:], strict=False):
            ids, labels = np.asarray(pack.input_ids[first:last]), np.asarray(pack.labels[first:last])
            ticket = TICKETS[line - 1]
            question = f"{ticket['subject']}\n\n{ticket['body'].strip()}".strip()
            assert tokenizer.decode(ids, skip_special_tokens=False) == (
                "<|im_start|>system\nYou answer support tickets for ACME, briefly and politely.<|im_end|>\n"
                f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{ticket['answer']}<|im_end|>"
            )
            trained = labels[labels != IGNORE_INDEX]
            assert tokenizer.decode(trained, skip_special_tokens=False) == f"{ticket['answer']}<|im_end|>"


def test_its_model_family_is_converted(site, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2, "vocab_size": 10}
    config = {"architectures": ["AcmeForCausalLM"], "model_type": "acme", "num_hidden_layers": 2, **sizes}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    layer = {
        "self_attn.o_proj.bias": (8,),
        **{f"self_attn.{name}_proj.weight": (8, 8) for name in "qkvo"},
        **dict.fromkeys(("input_layernorm.weight", "post_attention_layernorm.weight"), (8,)),
        **dict.fromkeys(("mlp.gate_proj.weight", "mlp.up_proj.weight"), (12, 8)),
        "mlp.down_proj.weight": (8, 12),
    }
    shapes = {f"model.layers.{number}.{name}": shape for number in range(2) for name, shape in layer.items()}
    shapes |= {"model.embed_tokens.weight": (10, 8), "model.norm.weight": (8,), "lm_head.weight": (10, 8)}
    rng = np.random.default_rng(0)
    save_file({name: rng.random(shape, np.float32) for name, shape in shapes.items()}, model / "model.safetensors")

    there = seqpack("convert", model, "--to", "mcore", "--tp", "2", "--pp", "2", "-o", tmp_path / "mcore", path=site)
    assert there.returncode == 0, there.stderr
    back = seqpack("convert", tmp_path / "mcore", "--to", "hf", "-o", tmp_path / "back", path=site)
    assert back.returncode == 0, back.stderr
    before, after = (load_file(folder / "model.safetensors") for folder in (model, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert seqpack("convert", model, "--to", "mcore", "-o", tmp_path / "none", path=tmp_path).returncode == 2


def test_the_set_is_the_same_twice(site, tickets, tokenizer_folder, tmp_path):
    for name in ("one", "two"):
        command = preprocess(tickets, tokenizer_folder, tmp_path / name, handler="tickets")
        assert seqpack(*command, path=site).returncode == 0
    one, two = (PackedDataset.open(tmp_path / name) for name in ("one", "two"))
    assert np.array_equal(one.tokens, two.tokens)
    assert np.array_equal(one.labels, two.labels)


def test_a_broken_plugin_is_reported_and_hurts_nobody(site, tickets, tokenizer_folder, tmp_path):
    beside = tmp_path / "beside"
    beside.mkdir()
    break_a_plugin(beside)
    both = Path(f"{site}{os.pathsep}{beside}")

    done = seqpack("plugins", "--json", path=both)
    reports = {report["name"]: report for report in listed(done)["plugins"]}
    reason = "ModuleNotFoundError: No module named 'package_that_is_not_there'"
    assert reports["acme"]["error"] == ""
    assert (reports["broken"]["distribution"], reports["broken"]["error"]) == ("seqpack-broken", reason)
    assert reason in done.stderr
    assert seqpack(*preprocess(tickets, tokenizer_folder, tmp_path / "packs"), path=both).returncode == 0

    unknown = preprocess(tickets, tokenizer_folder, tmp_path / "none", handler="ticket")
    done = seqpack(*unknown, path=both)
    assert done.returncode == 2
    assert "did you mean 'tickets'?" in done.stderr
    assert "not loaded: broken" in done.stderr


def test_a_variable_switches_plugins_off(site):
    value = listed(seqpack("plugins", "--json", path=site, SEQPACK_LOAD_PLUGINS=""))
    assert value["plugins"] == []


def test_other_columns_are_explained(site, tokenizer_folder, tmp_path):
    (tmp_path / "other.jsonl").write_text('{"question": "?", "reply": "!"}\n', encoding="utf-8")
    done = seqpack(*preprocess(tmp_path / "other.jsonl", tokenizer_folder, tmp_path / "packs"), path=site)
    assert done.returncode == 3
    assert "no column 'subject'" in done.stderr
    assert "question, reply" in done.stderr


def test_its_own_tests_pass(site):
    """They subclass the contract suites of ``seqpack.testing``."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "-p", "no:xdist"],
        cwd=PLUGIN,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        | {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


def test_it_imports_from_the_public_interface_alone():
    lines = [line for path in sorted(PLUGIN.rglob("*.py")) for line in path.read_text(encoding="utf-8").splitlines()]
    imported = {line.split()[1] for line in lines if line.startswith(("from seqpack", "import seqpack"))}
    assert {name for name in imported if not name.startswith("seqpack_acme")} == {"seqpack.api", "seqpack.testing"}
