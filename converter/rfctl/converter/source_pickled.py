"""Weights in pickled files, which are never opened: what is there, and the command that saves them anew.

A pickle is a program; torch's restricted reader (weights_only) has been got round before (CVE-2025-32434).
"""

from __future__ import annotations

import shlex
from pathlib import Path

from rfctl.core.error import RfctlError

ENDINGS = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# Beside the weights of a Trainer; no one converts those.
_OTHERS = ("training_args.bin", "optimizer", "scheduler", "rng_state", "scaler")
_MODEL = (
    "import sys; from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; a, b = sys.argv[1:]"
    "; M.from_pretrained(a, torch_dtype='auto').save_pretrained(b); T.from_pretrained(a).save_pretrained(b)"
)
_FILE = (
    "import sys, torch; from safetensors.torch import save_file; a, b = sys.argv[1:]; "
    "save_file({k: v.contiguous() for k, v in torch.load(a, 'cpu', weights_only=True).items()}, b)"
)


def find_pickled(path: Path) -> list[str]:
    """Names of the pickled weight files in the directory `path`, sorted."""
    return sorted(
        file.name
        for file in path.iterdir()
        if file.suffix.lower() in ENDINGS and not file.name.startswith(_OTHERS) and file.is_file()
    )


def command_for_model(path: Path) -> str:
    """A line for a shell that saves the model directory `path` as safetensors beside it."""
    folder = path.absolute()
    return _join(_MODEL, folder, folder.with_name(folder.name + "-safetensors"))


def refuse_model(path: Path, names: list[str]) -> RfctlError:
    """The error `model.weights-pickled` for the directory `path`."""
    return RfctlError("model.weights-pickled", path=path, files=_list(names), command=command_for_model(path))


def refuse_adapter(path: Path, names: list[str], target: str) -> RfctlError:
    """The error `adapter.weights-pickled`; `target` is the name of the file that is read."""
    command = _join(_FILE, path / names[0], path / target)
    return RfctlError("adapter.weights-pickled", path=path, files=_list(names), command=command)


def _join(program: str, *paths: Path) -> str:
    # Double quotes: the line is pasted into cmd.exe and PowerShell too, where single quotes do not quote.
    return " ".join(["python", "-c", f'"{program}"', *(_quote(str(path)) for path in paths)])


def _quote(text: str) -> str:
    quoted = shlex.quote(text)
    return f'"{text}"' if quoted != text and not set('"$`\\') & set(text) else quoted


def _list(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" (+{len(names) - 3})" if len(names) > 3 else "")
