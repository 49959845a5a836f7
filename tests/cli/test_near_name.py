"""A name with a mistake in it: every verb that takes one says which name there is."""

from __future__ import annotations

from pathlib import Path

from ragflow_command import Run, serving

MODELS = [
    ("model show smollm2", "smollm2:135m"),
    ("model show SMOLLM3:135m", "smollm2:135m"),
    ("model rm all-minilm:v2 --yes", "all-minilm:latest"),
    ("model verify qwen2.5-coder", "qwen2.5-coder:1.5b"),
    ("kb use-model all-minilm-l6", "all-minilm:latest"),
]
NAMES = [
    ("kb show doc", "docs"),
    ("kb docs Docs2", "docs"),
    ("kb search what --kb docs2", "docs"),
    ("kb rm doc --yes", "docs"),
    ("kb create other --embedding-model all-minlm", "all-minilm:latest"),
    ("chat show helper2", "helper"),
    ("chat ask helpr why", "helper"),
    ("chat rm halper --yes", "helper"),
    ("chat create more --kb doc", "docs"),
    ("chat create more --kb docs --model smollm2", "smollm2:135m"),
    ("chat edit helper --model smollm", "smollm2:135m"),
    ("profile use embeded", "embedded"),
    ("config set profile embeded", "embedded"),
    ("config set ragflow.ur http://localhost", "ragflow.url"),
    ("kb ls --profile embeded", "embedded"),
]


def test_every_verb(rfctl: Run, tmp_path: Path) -> None:
    with serving(tmp_path, rfctl) as (_, run):
        (tmp_path / "note.txt").write_text("The launch code name is Heron.\n", "utf-8")
        assert run("kb", "create", "docs").code == 0
        assert run("kb", "upload", "note.txt", "--kb", "docs").code == 0
        assert run("chat", "create", "helper", "--kb", "docs").code == 0
        for line, near in [*MODELS, *NAMES]:
            result = run(*line.split())
            assert result.code in (1, 2) and result.out == "", (line, result)
            why = result.err.splitlines()[1]
            assert why.startswith(f"  why: Did you mean {near}?"), (line, result.err)
        missing = run("model", "show", "smollm2", "--lang", "zh")
        assert missing.err.splitlines()[1:] == [
            "  原因: 您要找的是 smollm2:135m 吗？",
            "  下一步: 查看已有模型：rfctl model ls",
            "  rfctl explain ollama.model-missing",
        ]
