"""An adapter as a GGUF file: the bytes of llama.cpp's convert_lora_to_gguf.py, and llama.cpp applies it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_server import HubServer
from safetensor import read_safetensors, write_safetensors
from test_peft import make
from tiny import make_model

from rfctl.cli.main import execute
from rfctl.converter.adapter_file import plan_adapter
from rfctl.converter.convert import convert, write
from rfctl.converter.source import ModelSource, read_config
from rfctl.core.error import RfctlError
from rfctl.core.file import sha256_file

# convert_lora_to_gguf.py of llama.cpp b11434 (transformers 4.57.6) with --base on CONFIG, 2026-11-25.
REFERENCE = {
    "f32": "5c1b9c9cf615cbbe1c74c745f468794e991a463a6542da3105bee0ca4567b665",
    "f16": "157cbb87c6cfc45ec6b89733d8f79bfcca6cd6e5f7ccfed6d4891bb0ac10f1b2",
    "bf16": "96fbc61e0a6dc1c34b15200558a311b52fcee488c04ec631f8b9210dcf9253c8",
    "q8_0": "25ac6726b116aa413336fe1e4167b161caede370137295ca401de67ff95ea2dd",
}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
    "vocab_size": 32000,
    "tie_word_embeddings": True,
}
LAYER = "model.layers.0"
Q_BIAS = f"{LAYER}.self_attn.q_proj.lora_B.bias"
SHAPES = {
    f"{LAYER}.self_attn.q_proj": (256, 256),
    f"{LAYER}.self_attn.k_proj": (128, 256),
    f"{LAYER}.self_attn.v_proj": (128, 256),
    f"{LAYER}.mlp.down_proj": (256, 512),
}


def make_adapter(folder: Path, shapes: dict[str, tuple[int, int]], rank: int, **config: Any) -> Path:
    folder.mkdir(parents=True)
    tensors, number = {}, 1000
    for module, (outputs, inputs) in shapes.items():
        for part, shape in (("A", [rank, inputs]), ("B", [outputs, rank])):
            tensors[f"base_model.model.{module}.lora_{part}.weight"] = make(number, shape, 0.6, "F32")
            number += 1
    for name, shape in config.pop("others", {}).items():
        tensors[f"base_model.model.{name}"] = make(1000 + number, shape, 0.6, "F32")
        number += 1
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 16} | config
    (folder / "adapter_config.json").write_text(json.dumps(settings), "utf-8")
    return folder


def make_base(folder: Path, **config: Any) -> ModelSource:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | config), "utf-8")
    return ModelSource(folder, read_config(folder), {})


def make_recorded(folder: Path, **config: Any) -> Path:
    """The adapter that the reference was run on."""
    adapter = make_adapter(folder, SHAPES, 8, **config)
    pairs = {"A": make(2000, [8, 32000], 0.6, "F32"), "B": make(2001, [256, 8], 0.6, "F32")}
    tensors, number = {}, 1000
    for module, (outputs, inputs) in SHAPES.items():
        for part, shape in (("A", [8, inputs]), ("B", [outputs, 8])):
            tensors[f"base_model.model.{module}.lora_{part}.weight"] = make(number, shape, 0.6, "F32")
            number += 1
    for part, value in pairs.items():
        tensors[f"base_model.model.model.embed_tokens.lora_embedding_{part}"] = value
    write_safetensors(adapter / "adapter_model.safetensors", tensors)
    return adapter


@pytest.mark.parametrize("outtype", REFERENCE)
def test_file_is_the_one_of_the_reference(tmp_path: Path, outtype: str) -> None:
    adapter = make_recorded(tmp_path / "adapter-tiny")
    plan = plan_adapter(make_base(tmp_path / "base"), adapter, outtype)
    assert write(plan, tmp_path / "adapter.gguf").sha256 == REFERENCE[outtype]


@pytest.mark.parametrize(
    ("id", "config", "others", "base"),
    [
        ("adapter.module-unsupported", {"modules_to_save": ["norm"]}, {"model.norm.weight": [256]}, {}),
        ("adapter.module-unsupported", {"lora_bias": True}, {Q_BIAS: [256]}, {}),
        ("adapter.target-unknown", {}, {"other.lora_A.weight": [8, 4], "other.lora_B.weight": [4, 8]}, {}),
        ("adapter.tied-head", {}, {"lm_head.lora_A.weight": [8, 256], "lm_head.lora_B.weight": [9, 8]}, {}),
        ("adapter.rank-mismatch", {}, {"lm_head.lora_A.weight": [8, 9], "lm_head.lora_B.weight": [9, 7]},
         {"tie_word_embeddings": False}),
        ("adapter.dora", {"use_dora": True}, {}, {}),
        ("adapter.config-invalid", {"lora_alpha": 0}, {}, {}),
        ("model.architecture-unknown", {}, {}, {"architectures": ["NobodysForCausalLM"]}),
    ],
)  # fmt: skip
def test_refused(
    tmp_path: Path, id: str, config: dict[str, Any], others: dict[str, Any], base: dict[str, Any]
) -> None:
    adapter = make_adapter(tmp_path / "adapter", SHAPES, 8, others=others, **config)
    with pytest.raises(RfctlError) as caught:
        plan_adapter(make_base(tmp_path / "base", **base), adapter)
    assert caught.value.id == id


def test_transposed_weights_are_refused(tmp_path: Path) -> None:
    """GPT-2's Conv1D: the reference writes its A and B the wrong way round."""
    shapes = {"transformer.h.0.attn.c_attn": (768, 256)}
    adapter = make_adapter(tmp_path / "adapter", shapes, 4, fan_in_fan_out=True)
    base = make_base(tmp_path / "base", architectures=["GPT2LMHeadModel"], model_type="gpt2", n_ctx=64)
    with pytest.raises(RfctlError, match=r"adapter\.module-unsupported"):
        plan_adapter(base, adapter)


def test_command_with_a_base_on_the_hub(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the configuration of the base is fetched; the second time without the server."""
    adapter = make_recorded(tmp_path / "adapter-tiny", base_model_name_or_path="org/Base-7B")
    base = make_base(tmp_path / "base")
    (base.path / "model.safetensors").write_bytes(b"x" * 10_000)
    target = tmp_path / "adapter.gguf"
    command = ["model", "convert", str(adapter), "--as-adapter", "-o", str(target), "--force"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "RFCTL_LANG": "en"}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "RFCTL_HOME": str(tmp_path / "home"), "NO_COLOR": "1"}

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        # In a process of its own: huggingface_hub reads HF_HOME once.
        call = [
            sys.executable,
            "-c",
            "import sys; from rfctl.cli.main import execute; sys.exit(execute(sys.argv[1:]))",
            *command,
        ]
        return subprocess.run(call, env=environment | more, capture_output=True, text=True, timeout=120)

    with HubServer({"org/Base-7B": base.path}) as hub:
        done = run(HF_ENDPOINT=hub.url)
        assert done.returncode == 0, done.stderr
        assert sha256_file(target) == REFERENCE["f32"]
        assert hub.sent < 10_000
        hub.token = "secret"
        refused = run(HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "other"))
        assert (refused.returncode, "hub.gated" in refused.stderr) == (4, True), refused.stderr
    target.unlink()
    done = run(HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert sha256_file(target) == REFERENCE["f32"]
    monkeypatch.setenv("RFCTL_HOME", str(tmp_path / "home"))
    assert execute(["model", "convert", str(base.path), "--as-adapter", "-o", str(target), "--force"]) == 2
    assert "adapter.as-adapter-alone" in capsys.readouterr().err


CHILD = """
import json, sys
import xllamacpp
path, adapter = sys.argv[1:]
params = xllamacpp.CommonParams()
params.model.path = path
params.n_ctx = params.n_batch = params.n_ubatch = 64
params.n_parallel = 1
params.cache_ram_mib = 0
params.warmup = False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
if adapter:
    info = xllamacpp.CommonAdapterLoraInfo()
    info.path, info.scale = adapter, 1.0
    params.lora_adapters = [info]
server = xllamacpp.Server(params)
asked = {"prompt": [11, 257, 300, 9, 25], "n_predict": 1, "temperature": 0.0, "n_probs": 20}
print("\\nANSWER " + json.dumps(server.handle_completions(asked)), flush=True)
"""


def ask(path: Path, adapter: Path | str = "") -> dict[int, float]:
    """Token -> logarithm of its probability after a fixed prompt."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), str(adapter)],
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"OMP_WAIT_POLICY": "passive", "GGML_NO_BACKTRACE": "1"},
        timeout=180,
        check=False,
    )
    answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert answers, done.stderr[-2000:]
    answer = json.loads(answers[-1].removeprefix("ANSWER "))
    found = answer["choices"][0]["logprobs"]["content"][0]
    return {item["id"]: item["logprob"] for item in found["top_logprobs"]}


def test_llama_cpp_applies_it_as_the_merge_does(golden: Path, tmp_path: Path) -> None:
    """Rank-stabilized, with another scale for some modules, which the reference's file would lose."""
    base = make_model(tmp_path / "Tiny", golden / "converter" / "tokenizers" / "gpt2")
    weights = read_safetensors(base / "model.safetensors")
    name = "model.embed_tokens.weight"
    weights[name] = ("F16", weights[name][1] * np.float16(20))  # or every token would be as likely as any
    write_safetensors(base / "model.safetensors", weights)
    shapes = {
        f"{LAYER}.self_attn.q_proj": (64, 64),
        f"{LAYER}.self_attn.k_proj": (32, 64),
        f"{LAYER}.self_attn.v_proj": (32, 64),
        "model.layers.1.self_attn.o_proj": (64, 64),
        "model.layers.1.mlp.down_proj": (64, 96),
    }
    patterns = {"alpha_pattern": {"(k|v)_proj": 50}, "use_rslora": True, "lora_alpha": 30}
    adapter = make_adapter(tmp_path / "adapter", shapes, 4, **patterns)
    source = ModelSource(base, read_config(base), {})
    write(plan_adapter(source, adapter), tmp_path / "adapter.gguf")
    convert(base, tmp_path / "base.gguf", outtype="f32")
    convert(base, tmp_path / "merged.gguf", outtype="f32", adapter=adapter)
    plain, applied = ask(tmp_path / "base.gguf"), ask(tmp_path / "base.gguf", tmp_path / "adapter.gguf")
    merged = ask(tmp_path / "merged.gguf")
    shared = set(plain) & set(applied) & set(merged)
    assert len(shared) >= 8
    change = max(abs(plain[token] - merged[token]) for token in shared)
    error = max(abs(applied[token] - merged[token]) for token in shared)
    # The merge rounds to the base's float16; a wrong scale of one module is a good part of the change.
    assert error * 20 < change > 0.005, (error, change)
