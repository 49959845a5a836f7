"""What fine-tuning tools leave: folders of runs, checkpoints in parts, adapters whose base is elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_model import TEMPLATE, make_llama, write_shard

from rfctl.cli.main import execute
from rfctl.converter import source_run
from rfctl.converter.check import check
from rfctl.converter.check_adapter import guess_repository
from rfctl.converter.convert import make_plan
from rfctl.core.error import RfctlError

MODELSCOPE = "/root/.cache/modelscope/hub/models/Qwen/Qwen2___5-7B-Instruct"


def write_adapter(folder: Path, base: str, **settings: Any) -> Path:
    """A LoRA adapter of rank 8 for the made Llama, as LLaMA-Factory leaves one."""
    folder.mkdir(parents=True)
    tensors = {}
    for layer in range(2):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora"
        tensors |= {f"{name}_A.weight": ("F32", [8, 64]), f"{name}_B.weight": ("F32", [64, 8])}
    write_shard(folder / "adapter_model.safetensors", tensors)
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(config | settings), "utf-8")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (folder / name).write_bytes(b"PK\x03\x04")
    return folder


def read_findings(path: Path, **options: Any) -> dict[str, Any]:
    report = check(path, **options)
    for finding in report.findings:
        for language in ("en", "zh"):
            text = finding.text(language)
            assert "{" not in text.message + text.why + text.next
    return {finding.id: finding.params for finding in report.findings}


def test_a_folder_of_runs_names_the_last_one(tmp_path: Path) -> None:
    run = write_adapter(tmp_path / "saves" / "qwen" / "lora" / "sft", MODELSCOPE)
    for number in (500, 1000, 90):
        write_adapter(run / f"checkpoint-{number}", MODELSCOPE)
    found = read_findings(tmp_path / "saves")
    assert list(found) == ["model.inside"]
    assert found["model.inside"]["nearest"] == run
    assert str(found["model.inside"]["others"]).startswith("qwen/lora/sft/checkpoint-1000, ")
    with pytest.raises(RfctlError) as caught:
        make_plan(tmp_path / "saves", "f16")
    assert caught.value.id == "model.inside"


def test_an_empty_folder_is_no_folder_of_runs(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert "model.config-missing" in read_findings(tmp_path)


def test_a_link_to_itself_ends(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    make_llama().write(tmp_path / "a" / "model")
    assert read_findings(tmp_path)["model.inside"]["nearest"] == tmp_path / "a" / "model"


def test_a_large_folder_is_not_walked_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_run, "_MOST_ENTRIES", 50)
    for number in range(100):
        (tmp_path / f"{number:03}").mkdir()
        (tmp_path / f"{number:03}" / "config.json").write_text("{}", "utf-8")
    assert 0 < len(source_run.find_models(tmp_path)) <= 50


@pytest.mark.parametrize(
    ("file", "framework", "command"),
    [
        ("global_step500/zero_pp_rank_0_mp_rank_00_optim_states.pt", "DeepSpeed ZeRO", "zero_to_fp32.py"),
        ("pytorch_model_fsdp_0/.metadata", "FSDP", "merge-weights"),
    ],
)
def test_weights_in_parts_say_how_to_put_them_together(
    file: str, framework: str, command: str, tmp_path: Path
) -> None:
    made = make_llama()
    made.tensors = {}
    folder = made.write(tmp_path / "checkpoint-500")
    (folder / file).parent.mkdir()
    (folder / file).write_bytes(b"")
    params = read_findings(folder)["model.weights-distributed"]
    assert params["framework"] == framework
    assert command in str(params["command"]) and str(folder) in str(params["command"])
    with pytest.raises(RfctlError) as caught:
        make_plan(folder, "f16")
    assert caught.value.id == "model.weights-distributed"


def test_a_checkpoint_of_a_full_run_converts(tmp_path: Path) -> None:
    made = make_llama()
    made.files |= {"optimizer.pt": b"PK", "rng_state.pth": b"PK", "trainer_state.json": {"global_step": 500}}
    made.files["tokenizer_config.json"].pop("chat_template")
    made.files["chat_template.jinja"] = TEMPLATE
    made.split("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    folder = made.write(tmp_path / "checkpoint-500")
    assert check(folder).will_work
    assert make_plan(folder, "f16").get("tokenizer.chat_template") == TEMPLATE


@pytest.mark.parametrize(
    ("base", "repo"),
    [
        (MODELSCOPE, "Qwen/Qwen2.5-7B-Instruct"),
        (r"C:\Users\me\.cache\modelscope\hub\Qwen\Qwen2___5-7B", "Qwen/Qwen2.5-7B"),
        ("/root/.cache/huggingface/hub/models--Qwen--Qwen3-8B/snapshots/0a1b2c", "Qwen/Qwen3-8B"),
        ("/data/models/Qwen2.5-7B", ""),
        (r"D:\models\Qwen2.5-7B", ""),
        ("modelscope/x", ""),
        ("", ""),
    ],
)
def test_a_path_in_a_cache_stands_for_a_repository(base: str, repo: str) -> None:
    assert guess_repository(base) == repo


@given(st.text(st.sampled_from("models-/\\._aA\0 modelscope"), max_size=60))
def test_any_base_is_a_name_of_a_repository_or_nothing(base: str) -> None:
    repo = guess_repository(base)
    assert not repo or repo.count("/") == 1


@pytest.mark.parametrize(
    ("base", "id"), [(MODELSCOPE, "adapter.base-cached"), (r"D:\models\Qwen", "adapter.base-elsewhere")]
)
def test_a_base_of_another_machine_is_asked_for(
    base: str, id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RFCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RFCTL_LANG", "en")
    adapter = write_adapter(tmp_path / "adapter", base)
    assert execute(["model", "convert", str(adapter), "-o", str(tmp_path / "x.gguf")]) == 1
    err = capsys.readouterr().err
    assert id in err and "--adapter" in err
    assert not (tmp_path / "x.gguf").exists()
    found = read_findings(adapter)
    assert set(found) == {
        "model.adapter-only",
        id.replace("adapter.base", "model.adapter-base").replace("elsewhere", "absent"),
    }


def test_the_tokenizer_of_an_adapter_is_compared_with_the_base(tmp_path: Path) -> None:
    base = make_llama().write(tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter", str(base))
    assert not {"model.adapter-tokens", "model.adapter-template"} & set(read_findings(base, adapter=adapter))
    config = {
        "chat_template": "{{ bos_token }}[INST] {{ messages[0].content }}",
        "added_tokens_decoder": {"40": {"content": "<|part|>", "special": True}},
    }
    (adapter / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    (adapter / "training_args.yaml").write_text("template: llama3\n", "utf-8")
    found = read_findings(base, adapter=adapter)
    assert "<|part|> (40)" in str(found["model.adapter-tokens"]["tokens"])
    assert {"model.adapter-template", "model.template-other"} <= set(found)
    assert read_findings(adapter).keys() >= {"model.adapter-tokens"}
