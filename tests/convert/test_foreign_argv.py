"""Command lines of MindSpeed-LLM's examples: those of known families parse and dry-run, others name the families."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seqpack.cli.app import run
from seqpack.convert.convert import convert_weights

from .conftest import edit_config, make_model, options, tree

LINES = json.loads((Path(__file__).parents[1] / "golden" / "argv" / "mindspeed_convert.json").read_bytes())
KNOWN = ("llama2/", "qwen25/", "qwen3/", "qwen3_moe/")
SUPPORTED = [line for line in LINES if line["source"].startswith(KNOWN)]
WITH_ADAPTERS = [line for line in SUPPORTED if "--lora-r" in line["argv"]]
PLAIN = [line for line in SUPPORTED if line not in WITH_ADAPTERS]
OTHERS = [line for line in LINES if line not in SUPPORTED]

# as in MindSpeed-LLM 2.1.0, examples/mcore/qwen25
OLD_HF2MCORE = [
    *("--use-mcore-models", "--model-type", "GPT", "--load-model-type", "hf", "--save-model-type", "mg"),
    *("--target-tensor-parallel-size", "4", "--target-pipeline-parallel-size", "2", "--add-qkv-bias"),
    *("--load-dir", "in", "--save-dir", "out", "--tokenizer-model", "in/tokenizer.json"),
    *("--model-type-hf", "llama2", "--params-dtype", "bf16"),
]
OLD_MCORE2HF = [
    *("--use-mcore-models", "--model-type", "GPT", "--load-model-type", "mg", "--save-model-type", "hf"),
    *("--target-tensor-parallel-size", "1", "--target-pipeline-parallel-size", "1", "--add-qkv-bias"),
    *("--load-dir", "out", "--save-dir", "in", "--model-type-hf", "llama2"),
]


def by_source(lines: list[dict[str, Any]]) -> Any:
    return pytest.mark.parametrize("argv", [line["argv"] for line in lines], ids=[line["source"] for line in lines])


def value_of(argv: list[str], flag: str, default: str) -> str:
    return argv[argv.index(flag) + 1] if flag in argv else default


def test_there_are_lines() -> None:
    assert (len(PLAIN), len(WITH_ADAPTERS), len(OTHERS)) == (8, 3, 22)


@by_source(PLAIN)
def test_a_line_parses_where_its_model_is_not(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = run(["convert", *argv, "--dry-run"])
    out, err = capfd.readouterr()
    assert code == 0, err
    assert "dry run: nothing was written" in out
    assert "SP135" in err
    assert list(tmp_path.iterdir()) == []


def config_of(argv: list[str]) -> tuple[str, dict[str, Any]]:
    """A family and sizes that a line can split: as many layers, heads and experts as it wants, but small ones."""
    noop = value_of(argv, "--noop-layers", "")
    layers = 16 if not noop else 64 if noop.startswith("0") else 96
    if "qwen3-moe" in argv:
        experts = {"num_experts": 32, "num_hidden_layers": layers - 2, "moe_intermediate_size": 8}
        return "qwen3_moe", {"intermediate_size": 8, "num_key_value_heads": 4, **experts}
    family = {"llama2": "llama", "qwen25": "qwen2", "qwen3": "qwen3"}[value_of(argv, "--model-type-hf", "")]
    return family, {"num_hidden_layers": layers, "num_attention_heads": 8, "num_key_value_heads": 8}


@by_source(PLAIN)
def test_a_line_is_planned_with_a_model(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    family, sizes = config_of(argv)
    load_dir, save_dir = (Path(value_of(argv, flag, "")) for flag in ("--load-dir", "--save-dir"))
    model = make_model(tmp_path / "model", family, **sizes)
    if value_of(argv, "--load-model-type", "") == "mg":
        moe = {"moe_grouped_gemm": True, "ep": 2} if family == "qwen3_moe" else {}
        noop = value_of(argv, "--noop-layers", "") or None
        convert_weights(options(model, "mcore", load_dir, tp=2, pp=2, noop_layers=noop, verify=False, **moe))
        if "--hf-cfg-dir" in argv:
            (hf_dir := Path(value_of(argv, "--hf-cfg-dir", ""))).parent.mkdir(parents=True, exist_ok=True)
            model.rename(hf_dir)
    else:
        load_dir.parent.mkdir(parents=True, exist_ok=True)
        model.rename(load_dir)
        (load_dir / "model.safetensors").unlink()
        edit_config(load_dir, dtype="bfloat16")
    before = tree(tmp_path)
    code = run(["convert", *argv, "--dry-run", "--json"])
    out, err = capfd.readouterr()
    assert code == 0, err
    result = json.loads(out)
    if value_of(argv, "--save-model-type", "") == "mg":
        assert result["split"].startswith(f"TP {value_of(argv, '--target-tensor-parallel-size', '1')}")
        assert result["dtypes"] == ["bfloat16"]
    else:
        assert result["source_split"].startswith("TP 2, PP 2")
        inside = save_dir / "mg2hg" if "--hf-cfg-dir" in argv and save_dir == hf_dir else save_dir
        assert result["output"] == str(inside)
    assert tree(tmp_path) == before


@by_source(OTHERS)
def test_a_line_of_another_family_says_which_there_are(argv: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    code = run(["convert", *argv, *([] if "--save-model-type" in argv else ["--to", "hf"]), "--dry-run"])
    err = " ".join(capfd.readouterr().err.split())
    assert code == 2
    for word in ("SP402", "qwen3_moe (Qwen3MoeForCausalLM)", "seqpack_weight_converters"):
        assert word in err


@by_source(WITH_ADAPTERS)
def test_adapters_of_megatron_are_refused(argv: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", *argv, "--dry-run"]) == 2
    assert "SP029" in capfd.readouterr().err


def test_lines_of_the_older_converter_work_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_model(tmp_path / "in", "qwen2", num_key_value_heads=4)
    assert run(["convert", *OLD_HF2MCORE]) == 0, capfd.readouterr().err
    printed = capfd.readouterr().out
    assert "--tokenizer-model has no effect" in printed
    assert sorted(path.name for path in (tmp_path / "out/iter_0000001").iterdir()) == [
        f"mp_rank_{tp:02d}_{pp:03d}" for tp in range(4) for pp in range(2)
    ]
    assert run(["convert", *OLD_MCORE2HF]) == 0, capfd.readouterr().err
    assert (tmp_path / "in/mg2hg/model.safetensors").is_file()
    assert json.loads((tmp_path / "in/mg2hg/config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("spelling", ["mg2hg", "mg2hf"])
def test_both_spellings_of_the_way_back_are_read(tmp_path: Path, spelling: str) -> None:
    model = make_model(tmp_path / "outer" / spelling, "llama")
    other = {"mg2hg": "mg2hf", "mg2hf": "mg2hg"}[spelling]
    for number, source in enumerate((model, model.with_name(other), model.parent)):
        assert convert_weights(options(source, "mcore", tmp_path / f"out{number}")).verified


@pytest.mark.parametrize(
    ("flags", "code", "word"),
    [
        (["--load-model-type", "mg"], "SP413", "no Megatron checkpoint"),
        (["--model-type-hf", "qwen3"], "SP413", "LlamaForCausalLM"),
        (["--model-type-hf", "nonsense"], "SP402", "nonsense"),
        (["--add-qkv-bias"], "SP413", "no biases"),
        (["--moe-grouped-gemm"], "SP413", "no experts"),
        (["--source-tensor-parallel-size", "2"], "SP413", "--source-tensor-parallel-size 2"),
        (["--model-type", "BERT"], "SP029", "GPT"),
        (["--moe-tp-extend-ep"], "SP029", "MindSpeed-LLM"),
        (["--num-layers", "2"], "SP029", "--num-layers"),
        (["--mtp-num-layers", "1"], "SP402", "--mtp-num-layers"),
        (["--ckpt-format", "zarr"], "SP406", "known: torch"),
        (["--noop-layers", "a"], "SP414", "--noop-layers"),
        (["--expert-tensor-parallel-size", "3"], "SP414", "neither 1 nor"),
        (["--save-model-type", "hf"], "SP001", "contradicts"),
    ],
)
def test_flags_that_contradict_or_are_not_supported(
    llama: Path, tmp_path: Path, flags: list[str], code: str, word: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = tree(tmp_path)
    assert run(["convert", str(llama), "--to", "mcore", "-o", str(tmp_path / "out"), *flags]) == 2
    err = " ".join(capfd.readouterr().err.split())
    assert code in err and word in err
    assert tree(tmp_path) == before


def test_a_direction_is_asked_for(llama: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", str(llama), "-o", "out"]) == 2
    assert "--to is missing" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        ({"tp": 2}, "SP414"),
        ({"pp": 2}, "SP414"),
        ({"ep": 2}, "SP414"),
        ({"padded_vocab_size": 64}, "SP028"),
        ({"transformer_impl": "local"}, "SP028"),
        ({"release": True}, "SP028"),
        ({"num_layer_list": "1,1"}, "SP413"),
        ({"layers_per_virtual_stage": 1}, "SP413"),
        ({"source_tp": 2}, "SP413"),
    ],
)
def test_flags_that_mean_nothing_on_the_way_back(llama: Path, tmp_path: Path, flags: dict[str, Any], code: str) -> None:
    from seqpack.core.errors import ConfigError

    convert_weights(options(llama, "mcore", tmp_path / "mcore"))
    with pytest.raises(ConfigError) as caught:
        convert_weights(options(tmp_path / "mcore", "hf", tmp_path / "back", **flags))
    assert caught.value.code == code
