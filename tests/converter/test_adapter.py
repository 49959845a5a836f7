"""An adapter merged while converting gives the file of the merged model; what does not fit is refused."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builder import build
from hub_server import HubServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensor import read_safetensors, write_safetensors
from tiny import make_model

from rfctl.converter.adapter_config import _look_up, _read_pattern, read_adapter_config
from rfctl.converter.convert import convert, make_plan
from rfctl.converter.expression import Slice
from rfctl.converter.header import read_header
from rfctl.converter.low_rank import LowRank
from rfctl.converter.quantization.dtype import bf16_to_f32, f32_to_bf16
from rfctl.converter.storage import SourceReader
from rfctl.core.error import RfctlError
from rfctl.core.file import sha256_file

Tensors = dict[str, tuple[str, np.ndarray[Any, Any]]]
VOCABULARY = 50257
GPT2 = "gpt2"
RUN = "import sys; from rfctl.cli.main import execute; sys.exit(execute(sys.argv[1:]))"
Q = "model.layers.0.self_attn.q_proj"
K = "model.layers.1.self_attn.k_proj"
DOWN = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def tokenizer(golden: Path) -> Path:
    return golden / "converter" / "tokenizers" / "gpt2"


@pytest.fixture(scope="module", params=["F16", "BF16", "F32"])
def base(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    folder = make_model(tmp_path_factory.mktemp("base") / "Tiny-7M", tokenizer)
    tensors = read_safetensors(folder / "model.safetensors")
    changed = {
        name: (request.param, from_float(request.param, to_float(*item))) for name, item in tensors.items()
    }
    write_safetensors(folder / "model.safetensors", changed)
    return folder


@pytest.fixture(scope="module")
def half(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("half") / "Tiny-7M", tokenizer)


def to_float(dtype: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return bf16_to_f32(values) if dtype == "BF16" else values.astype(np.float32)


def from_float(dtype: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if dtype == "BF16":
        return f32_to_bf16(values)
    return values.astype(np.float16 if dtype == "F16" else np.float32)


def grid(shape: tuple[int, ...], seed: int) -> np.ndarray[Any, Any]:
    """Multiples of 1/64 below 1/2: every product and sum is exact, whatever its order."""
    values = np.random.default_rng(seed).integers(-31, 32, shape) / 64
    return values.astype(np.float32)


def make_adapter(folder: Path, tensors: dict[str, np.ndarray[Any, Any]], **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    settings_ = {"peft_type": "LORA", "r": 4, "lora_alpha": 2, "bias": "none", **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings_), "utf-8")
    named = {f"base_model.model.{name}": ("F32", values) for name, values in tensors.items()}
    write_safetensors(folder / "adapter_model.safetensors", named)
    return folder


def pair(module: str, outputs: int, inputs: int, rank: int = 4) -> dict[str, np.ndarray[Any, Any]]:
    return {
        f"{module}.lora_A.weight": grid((rank, inputs), len(module)),
        f"{module}.lora_B.weight": grid((outputs, rank), len(module) + 1),
    }


def merge(base: Path, target: Path, deltas: dict[str, np.ndarray[Any, Any]]) -> Path:
    """The merged model in a directory of the same name."""
    folder = target / base.name
    folder.mkdir(parents=True)
    for file in base.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = read_safetensors(base / "model.safetensors")
    for name, delta in deltas.items():
        dtype, values = tensors[name]
        tensors[name] = (dtype, from_float(dtype, to_float(dtype, values) + delta))
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def delta(tensors: dict[str, np.ndarray[Any, Any]], module: str, scale: float) -> np.ndarray[Any, Any]:
    product = tensors[f"{module}.lora_B.weight"] @ tensors[f"{module}.lora_A.weight"]
    return product * np.float32(scale)


@pytest.mark.parametrize("outtype", ["auto", "Q8_0", "Q4_K_M"])
def test_file_is_the_one_of_the_merged_model(base: Path, tmp_path: Path, outtype: str) -> None:
    tensors = pair(Q, 64, 64) | pair(K, 32, 64, rank=8) | pair(DOWN, 64, 96)
    embedding = {
        "model.embed_tokens.lora_embedding_A": grid((4, VOCABULARY), 5),
        "model.embed_tokens.lora_embedding_B": grid((64, 4), 6),
    }
    norm = {"model.norm.weight": grid((64,), 9)}
    adapter = make_adapter(
        tmp_path / "adapter",
        tensors | embedding | norm,
        rank_pattern={"k_proj": 8},
        alpha_pattern={"^" + DOWN: 16},
        modules_to_save=["norm"],
    )
    deltas = {
        f"{Q}.weight": delta(tensors, Q, 2 / 4),
        f"{K}.weight": delta(tensors, K, 2 / 8),
        f"{DOWN}.weight": delta(tensors, DOWN, 16 / 4),
        "model.embed_tokens.weight": (
            embedding["model.embed_tokens.lora_embedding_B"]
            @ embedding["model.embed_tokens.lora_embedding_A"]
        ).T
        * np.float32(0.5),
    }
    # PEFT rounds what it adds to embeddings to their own type first.
    dtype = read_safetensors(base / "model.safetensors")["model.norm.weight"][0]
    rounded = from_float(dtype, deltas["model.embed_tokens.weight"])
    deltas["model.embed_tokens.weight"] = to_float(dtype, rounded)
    merged = merge(base, tmp_path / "merged", deltas)
    saved = read_safetensors(merged / "model.safetensors")
    dtype = saved["model.norm.weight"][0]
    saved["model.norm.weight"] = (dtype, from_float(dtype, norm["model.norm.weight"]))
    write_safetensors(merged / "model.safetensors", saved)
    wanted = convert(merged, tmp_path / "wanted.gguf", outtype=outtype).sha256
    done = convert(base, tmp_path / "file.gguf", outtype=outtype, adapter=adapter, threads=3)
    assert done.sha256 == wanted == sha256_file(tmp_path / "file.gguf")
    assert convert(base, tmp_path / "plain.gguf", outtype=outtype).sha256 != wanted


def test_rank_stabilized_and_adapter_names_in_keys(half: Path, tmp_path: Path) -> None:
    tensors = pair(Q, 64, 64)
    named = {name.replace(".weight", ".default.weight"): values for name, values in tensors.items()}
    adapter = make_adapter(tmp_path / "adapter", named, use_rslora=True, lora_alpha=3)
    merged = merge(half, tmp_path / "merged", {f"{Q}.weight": delta(tensors, Q, 3 / math.sqrt(4))})
    wanted = convert(merged, tmp_path / "wanted.gguf").sha256
    assert convert(half, tmp_path / "file.gguf", adapter=adapter).sha256 == wanted


def test_weights_stored_fan_in_first(golden: Path, tmp_path: Path) -> None:
    """GPT-2: Conv1D weights are inputs x outputs; its square ones follow the setting."""
    spec = json.loads((golden / "converter" / "cases" / f"{GPT2}.json").read_text("utf-8"))
    base = build(golden, spec, tmp_path)
    sizes = {name: item[1].shape for name, item in read_safetensors(base / "model.safetensors").items()}
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    deltas = {}
    for end in ("h.0.attn.c_attn", "h.0.attn.c_proj", "h.1.mlp.c_proj"):
        module = next(name for name in sizes if name.endswith(f"{end}.weight")).removesuffix(".weight")
        inputs, outputs = sizes[f"{module}.weight"]
        tensors |= pair(module, outputs, inputs)
        deltas[f"{module}.weight"] = delta(tensors, module, 0.5).T
    adapter = make_adapter(tmp_path / "adapter", tensors, fan_in_fan_out=True)
    merged = merge(base, tmp_path / "merged", deltas)
    wanted = convert(merged, tmp_path / "wanted.gguf").sha256
    assert convert(base, tmp_path / "file.gguf", adapter=adapter).sha256 == wanted


def test_saved_embeddings_of_an_untied_model(half: Path, tmp_path: Path) -> None:
    base = merge(half, tmp_path / "copy", {})
    config = json.loads((base / "config.json").read_text("utf-8"))
    (base / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}), "utf-8")
    tensors = read_safetensors(base / "model.safetensors")
    write_safetensors(
        base / "model.safetensors", {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}
    )
    new = {
        "lm_head.weight": grid((VOCABULARY, 64), 3),
        "model.embed_tokens.weight": grid((VOCABULARY, 64), 4),
    }
    adapter = make_adapter(tmp_path / "adapter", new, modules_to_save=["lm_head", "embed_tokens"])
    merged = merge(base, tmp_path / "merged", {})
    saved = read_safetensors(merged / "model.safetensors")
    write_safetensors(
        merged / "model.safetensors",
        {**saved, **{name: ("F16", values.astype(np.float16)) for name, values in new.items()}},
    )
    wanted = convert(merged, tmp_path / "wanted.gguf").sha256
    assert convert(base, tmp_path / "file.gguf", adapter=adapter).sha256 == wanted


def test_adapter_alone_uses_the_base_it_names(half: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", pair(Q, 64, 64), base_model_name_or_path=str(half))
    wanted = convert(half, tmp_path / "wanted.gguf", adapter=adapter).sha256
    assert convert(adapter, tmp_path / "file.gguf").sha256 == wanted


def test_adapter_alone_whose_base_is_elsewhere(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", pair(Q, 64, 64), base_model_name_or_path="someone/model")
    with pytest.raises(RfctlError, match=r"model\.adapter-only"):
        convert(adapter, tmp_path / "file.gguf")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    begin=st.integers(0, 199),
    length=st.integers(1, 200),
    columns=st.sampled_from([1, 5, 64]),
    transposed=st.booleans(),
)
def test_rows_do_not_depend_on_the_chunk(
    tmp_path: Path, begin: int, length: int, columns: int, transposed: bool
) -> None:
    """Bit for bit, with values whose sums are not exact."""
    random = np.random.default_rng(columns)
    inputs, outputs = (200, columns) if transposed else (columns, 200)
    values = {
        "w": ("F32", random.standard_normal((200, columns)).astype(np.float32)),
        "a": ("F32", random.standard_normal((7, inputs)).astype(np.float32)),
        "b": ("F32", random.standard_normal((outputs, 7)).astype(np.float32)),
    }
    path = tmp_path / "three.safetensors"
    write_safetensors(path, values)
    a, b, w = read_header(path)
    expression = LowRank(Slice(w), Slice(a), Slice(b), 0.3, transposed)
    end = min(200, begin + length)
    with SourceReader([path]) as reader:
        whole = expression.load(reader, 0, 200)
        part = expression.load(reader, begin, end)
    assert part.tobytes() == whole[begin:end].tobytes()
    product = values["b"][1].astype(np.float64) @ values["a"][1]
    exact = values["w"][1] + (product.T if transposed else product) * 0.3
    np.testing.assert_allclose(whole, exact, rtol=1e-4, atol=1e-4)


REFUSED: list[tuple[str, dict[str, np.ndarray[Any, Any]], dict[str, Any]]] = [
    ("adapter.dora", {}, {"use_dora": True}),
    ("adapter.dora", {f"{Q}.lora_magnitude_vector": grid((64,), 1)}, {}),
    ("adapter.type-unsupported", {}, {"peft_type": "IA3"}),
    ("adapter.type-unsupported", {}, {"peft_type": None}),
    ("adapter.feature-unsupported", {}, {"init_lora_weights": "pissa_niter_4"}),
    ("adapter.feature-unsupported", {}, {"layer_replication": [[0, 2], [1, 2]]}),
    ("adapter.feature-unsupported", {}, {"rank_pattern": {"(a+)+$": 8}}),
    ("adapter.config-invalid", {}, {"r": 0}),
    ("adapter.config-invalid", {}, {"r": True}),
    ("adapter.config-invalid", {}, {"lora_alpha": "16"}),
    ("adapter.config-invalid", {}, {"lora_alpha": float("nan")}),
    ("adapter.config-invalid", {}, {"alpha_pattern": [1]}),
    ("adapter.rank-mismatch", {}, {"r": 8}),
    ("adapter.rank-mismatch", {f"{Q}.lora_A.weight": grid((5, 64), 1)}, {}),
    ("adapter.shape-mismatch", {f"{Q}.lora_A.weight": grid((4, 63), 1)}, {}),
    ("adapter.shape-mismatch", {f"{Q}.lora_B.weight": grid((63, 4), 1)}, {}),
    ("adapter.shape-mismatch", {f"{Q}.lora_A.weight": grid((4, 64, 1), 1)}, {}),
    ("adapter.shape-mismatch", {"model.norm.weight": grid((65,), 1)}, {}),
    ("adapter.target-unknown", pair("model.layers.7.self_attn.q_proj", 64, 64), {}),
    ("adapter.target-unknown", {f"{Q}.bias": grid((64,), 1)}, {"bias": "all"}),
    ("adapter.tied-head", {"lm_head.weight": grid((8, 64), 1)}, {"modules_to_save": ["lm_head"]}),
    (
        "adapter.tied-head",
        {"model.embed_tokens.weight": np.zeros((VOCABULARY, 64), np.float32)},
        {"modules_to_save": ["embed_tokens"]},
    ),
    ("adapter.config-invalid", {}, {"modules_to_save": "lm_head"}),
    ("adapter.tensor-unused", {f"{K}.lora_A.weight": grid((4, 64), 1)}, {}),
    ("adapter.tensor-unused", {f"{Q}.lora_A.other.weight": grid((4, 64), 1)}, {}),
    ("adapter.tensor-unused", {f"{Q}.lora_B.bias": grid((64,), 1)}, {}),
    ("adapter.target-unknown", {f"{Q}.lora_B.bias": grid((64,), 1)}, {"lora_bias": True}),
    ("adapter.feature-unsupported", {}, {"use_qalora": True}),
    ("adapter.feature-unsupported", {}, {"use_something_new": True}),
    ("adapter.feature-unsupported", {}, {"target_parameters": ["experts.down_proj"]}),
    ("adapter.feature-unsupported", {}, {"trainable_token_indices": [1, 2]}),
    ("adapter.feature-unsupported", {}, {"init_lora_weights": "olora"}),
    ("adapter.type-unsupported", {}, {"peft_type": "LOKR"}),
    ("adapter.type-unsupported", {}, {"peft_type": "ADALORA"}),
    ("adapter.type-unsupported", {}, {"peft_type": "VERA"}),
    ("adapter.feature-unsupported", {}, {"rank_pattern": {".*.*.*.*a": 8}}),
    ("adapter.feature-unsupported", {}, {"rank_pattern": {"(a|a)" * 30 + "b": 8}}),
    ("adapter.feature-unsupported", {}, {"alpha_pattern": {"a?" * 40 + "a" * 40: 8}}),
    ("adapter.config-invalid", {}, {"rank_pattern": {"[z-a]": 8}}),
    ("adapter.tensor-unused", {"prompt_embeddings": grid((64,), 1)}, {}),
]


@pytest.mark.parametrize(("id", "tensors", "config"), REFUSED)
def test_refused(
    half: Path, tmp_path: Path, id: str, tensors: dict[str, Any], config: dict[str, Any]
) -> None:
    adapter = make_adapter(tmp_path / "adapter", pair(Q, 64, 64) | tensors, **config)
    with pytest.raises(RfctlError) as caught:
        make_plan(half, adapter=adapter)
    assert caught.value.id == id


def test_adapter_without_weights(half: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", pair(Q, 64, 64))
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(RfctlError) as caught:
        make_plan(half, adapter=adapter)
    assert caught.value.id == "adapter.weights-pickled"
    assert "adapter_model.bin" in caught.value.text("zh").next
    (adapter / "adapter_model.bin").unlink()
    with pytest.raises(RfctlError, match=r"adapter\.weights-missing"):
        make_plan(half, adapter=adapter)


def test_directory_that_is_no_adapter(half: Path, tmp_path: Path) -> None:
    with pytest.raises(RfctlError, match=r"adapter\.not-found"):
        make_plan(half, adapter=tmp_path)


def test_quantized_base(half: Path, tmp_path: Path) -> None:
    base = merge(half, tmp_path / "copy", {})
    config = json.loads((base / "config.json").read_text("utf-8"))
    config["quantization_config"] = {"quant_method": "bitsandbytes"}
    (base / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(RfctlError, match=r"adapter\.base-quantized"):
        make_plan(base, adapter=make_adapter(tmp_path / "adapter", pair(Q, 64, 64)))


def test_adapter_that_is_not_finite(half: Path, tmp_path: Path) -> None:
    tensors = pair(DOWN, 64, 96)
    tensors[f"{DOWN}.lora_B.weight"][3, 0] = np.nan
    adapter = make_adapter(tmp_path / "adapter", tensors)
    with pytest.raises(RfctlError) as caught:
        convert(half, tmp_path / "file.gguf", adapter=adapter)
    assert (caught.value.id, caught.value.params["row"]) == ("model.not-finite", 3)
    assert not (tmp_path / "file.gguf").exists()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.sampled_from(
        ["r", "lora_alpha", "rank_pattern", "alpha_pattern", "peft_type", "init_lora_weights"]
    ),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=6), inner, max_size=2),
        max_leaves=4,
    ),
)
def test_any_config_is_read_or_refused(tmp_path: Path, key: str, value: Any) -> None:
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, key: value}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    try:
        read = read_adapter_config(tmp_path)
    except RfctlError as error:
        assert error.id.startswith(("adapter.", "model."))
    else:
        assert read.rank("a.b") > 0
        assert math.isfinite(read.scale("a.b"))


@settings(max_examples=200, deadline=None)
@given(
    pattern=st.text(alphabet="ab.*+?()|[]^${}\\1,d-_", min_size=1, max_size=24),
    module=st.sampled_from(["a" * 300, "ab." * 100, "model.layers.0.self_attn.q_proj"]),
)
def test_no_pattern_runs_for_long(pattern: str, module: str) -> None:
    """A hostile expression is refused, or is found to match or not in a moment."""
    started = time.monotonic()
    try:
        found = _look_up(dict(_read_pattern({"rank_pattern": {pattern: 3}}, "rank_pattern")), module, 1)
        wanted = re.match(rf"(.*\.)?({pattern})$", module)
        assert found == (3 if wanted else 1)
    except RfctlError as error:
        assert error.id in ("adapter.feature-unsupported", "adapter.config-invalid")
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "pattern",
    [
        "q_proj",
        "^model.layers.0.self_attn.q_proj",
        r"layers\.[0-9]+\.self_attn\.(q|k)_proj",
        ".*proj",
        "^.*q_proj$",
    ],
)
def test_patterns_that_trainers_write_are_read(pattern: str) -> None:
    found = dict(_read_pattern({"rank_pattern": {pattern: 3}}, "rank_pattern"))
    assert _look_up(found, Q, 1) == 3
    assert _look_up(found, "model.norm", 1) == 1


def test_adapter_alone_whose_base_is_on_the_hub(half: Path, tmp_path: Path) -> None:
    """The same bytes as with the base at hand: the file's name comes from the repository, not the commit."""
    adapter = make_adapter(
        tmp_path / "adapter", pair(Q, 64, 64), base_model_name_or_path="org/Tiny-7M", revision="main"
    )
    wanted = convert(half, tmp_path / "wanted.gguf", adapter=adapter).sha256
    target = tmp_path / "file.gguf"
    command = ["model", "convert", str(adapter), "-o", str(target)]
    environment = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    environment |= {
        "HF_HOME": str(tmp_path / "hf"),
        "RFCTL_HOME": str(tmp_path / "home"),
        "HOME": str(tmp_path),
    }
    # The same weights in other layouts, as Mistral's and Meta's repositories have them.
    (half / "original").mkdir()
    for name in ("consolidated.safetensors", "original/model.safetensors"):
        (half / name).write_bytes(b"x" * 1000)
    with HubServer({"org/Tiny-7M": half}) as hub:
        done = subprocess.run(
            [sys.executable, "-c", RUN, *command],
            env=environment | {"HF_ENDPOINT": hub.url},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert sha256_file(target) == wanted
        asked = " ".join(request.path for request in hub.requests)
        assert "consolidated" not in asked and "original" not in asked
        make_adapter(adapter, pair(Q, 64, 64), base_model_name_or_path="org/Tiny-7M", revision="v9")
        done = subprocess.run(
            [sys.executable, "-c", RUN, *command, "--force"],
            env=environment | {"HF_ENDPOINT": hub.url},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert (done.returncode, "hub.revision-missing" in done.stderr) == (1, True), done.stderr
