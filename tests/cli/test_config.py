"""default < YAML < flag, the same names, and nothing unknown."""

from __future__ import annotations

import pytest
import yaml


@pytest.fixture
def preprocess(cli, alpaca_file, tokenizer_dir, tmp_path):
    """Run ``seqpack preprocess`` with a configuration text and more flags; returns outcome and resolved options."""

    def call(config: str, *flags: object):
        path = tmp_path / "run.yaml"
        path.write_text(config)
        prefix = tmp_path / "out"
        outcome = cli(
            "preprocess", alpaca_file, "--tokenizer", tokenizer_dir, "-o", prefix, "--overwrite", "-c", path, *flags
        )
        resolved = tmp_path / "out_packed_resolved.yaml"
        return outcome, yaml.safe_load(resolved.read_text()) if resolved.exists() else None

    return call


def test_file_overrides_default_and_flag_overrides_file(preprocess):
    _, resolved = preprocess("seq-length: 128\nneat_pack: true\n")
    assert (resolved["seq_length"], resolved["neat_pack"], resolved["seed"]) == (128, True, 1234)
    _, resolved = preprocess("seq_length: 128\nneat-pack: true\n", "--seq-length", 256, "--no-neat-pack")
    assert (resolved["seq_length"], resolved["neat_pack"]) == (256, False)


def test_other_spellings_of_a_flag_and_mappings(preprocess):
    outcome, resolved = preprocess("handler-name: alpaca\nmap_keys: {query: null}\n")
    assert outcome.code == 0, outcome.err
    assert resolved["handler"] == "alpaca"
    assert resolved["map_keys"] == '{"query": null}'


def test_resolved_file_says_where_each_value_comes_from_and_can_be_used_again(preprocess, cli, tmp_path):
    preprocess("seed: 7\n", "--pack", "--seq-length", 128)
    path = tmp_path / "out_packed_resolved.yaml"
    lines = path.read_text().splitlines()
    assert "seed: 7  # config" in lines
    assert "seq_length: 128  # flag" in lines
    assert "strategy: balanced  # default" in lines
    kept = tmp_path / "again.yaml"
    kept.write_text(path.read_text())
    before = (tmp_path / "out_packed_input_ids_document.bin").read_bytes()
    assert cli("preprocess", "--config", kept, "--overwrite").code == 0
    assert (tmp_path / "out_packed_input_ids_document.bin").read_bytes() == before


def test_flag_form_of_an_argument_overrides_the_file(preprocess, alpaca_file, cli, tmp_path, tokenizer_dir):
    path = tmp_path / "input.yaml"
    path.write_text("input: [nowhere.jsonl]\n")
    outcome = cli("stats", "-c", path, "--input", alpaca_file, "--tokenizer", tokenizer_dir)
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("seq_lenght: 5\n", "did you mean 'seq_length'"),
        ("config: x.yaml\n", "unknown key 'config'"),
        ("- a\n- b\n", "must be a mapping"),
        ("a: [\n", "is not valid YAML"),
        ("seq_length: many\n", "--seq-length"),
        ("on_overlong: explode\n", "--on-overlong"),
    ],
)
def test_wrong_file_is_refused(preprocess, config, message):
    outcome, resolved = preprocess(config)
    assert outcome.code == 2
    assert message in outcome.err
    assert resolved is None


def test_missing_file_is_refused(cli, tmp_path):
    outcome = cli("stats", "-c", tmp_path / "none.yaml")
    assert outcome.code == 2 and "cannot be read" in outcome.err
