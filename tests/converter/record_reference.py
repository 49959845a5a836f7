"""Record what the reference writes for the small models of `data/family`: sizes and sha256 of whole files.

    python tests/converter/record_reference.py --llama-cpp DIR --python PYTHON [--quantize BINARY] [--compare]
        [NAME ...]

DIR is a llama.cpp tree, PYTHON an interpreter with what its convert_hf_to_gguf.py needs (torch included).
A name whose outputs are recorded already is left alone unless it is named. The golden data must be at hand:
the tokenizers come from there. With --compare every recorded file is compared with what the converter here
writes, key by key and tensor by tensor.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent)]

from small import FOLDER, make_small  # noqa: E402

from conftest import find_shared  # noqa: E402
from rfctl.converter.compare import compare_files  # noqa: E402
from rfctl.converter.convert import convert  # noqa: E402
from rfctl.converter.gguf_file import open_gguf  # noqa: E402
from rfctl.core.error import RfctlError  # noqa: E402

DIRECT = ("f32", "f16", "bf16", "q8_0", "auto")
LOSSLESS = {"BF16": "bf16", "F16": "f16", "F32": "f32"}


def record(spec: dict[str, Any], folder: Path, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Outtype -> size and sha256 of the reference's file."""
    outputs = {}
    target, final = folder.parent / "reference.gguf", folder.parent / "quantized.gguf"
    for outtype in spec["outtypes"]:
        direct = outtype if outtype in DIRECT else spec.get("lossless", LOSSLESS[spec["dtype"]])
        script = Path(options.llama_cpp) / "convert_hf_to_gguf.py"
        command = [options.python, str(script), str(folder), "--outfile", str(target), "--outtype", direct]
        command += spec.get("arguments", [])
        # Whether code of the model may run is asked for where the script does not allow it itself.
        subprocess.run(command, check=True, capture_output=True, timeout=600, input=b"y\n" * 8)
        written = target
        if outtype not in DIRECT:
            command = [options.quantize, str(target), str(final), outtype, "2"]
            subprocess.run(command, check=True, capture_output=True, timeout=600)
            written = final
        if options.compare:
            compare(folder, written, outtype)
        data = written.read_bytes()
        outputs[outtype] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return outputs


def compare(folder: Path, reference: Path, outtype: str) -> None:
    """Print how our file of the model in `folder` differs from the reference's."""
    ours = folder.parent / "ours.gguf"
    try:
        convert(folder, ours, outtype=outtype, two_step=outtype not in DIRECT or None)
    except RfctlError as error:
        print(f"  {outtype}: not converted: {error}")
        return
    found = compare_files(open_gguf(ours), open_gguf(reference))
    for key in found.keys:
        print(f"  {outtype}: {key.key} {key.kind}: ours {key.first or '-'}, reference {key.second or '-'}")
    for tensor in found.tensors:
        print(f"  {outtype}: {tensor.name} {tensor.kind}: {tensor.first or '-'}, {tensor.second or '-'}")
    if found.is_same:
        is_equal = ours.read_bytes() == reference.read_bytes()
        print(f"  {outtype}: {'identical' if is_equal else 'the same keys and tensors in another order'}")
    ours.unlink()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--llama-cpp", required=True)
    parser.add_argument("--python", required=True)
    parser.add_argument("--quantize", default="llama-quantize")
    parser.add_argument("--reference", default="llama.cpp b11434, transformers 4.57.6")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    shared = find_shared()
    if shared is None:
        sys.exit("the golden data is not here: set RFCTL_SHARED")
    for path in sorted(FOLDER.glob("*.json")):
        spec = json.loads(path.read_text("utf-8"))
        if path.stem not in options.names if options.names else "outputs" in spec:
            continue
        with tempfile.TemporaryDirectory() as parent:
            folder = make_small(shared / "golden", spec, Path(parent))
            if "remote" in spec:
                code = Path(__file__).parent / "remote" / f"{spec['remote']}.py"
                shutil.copyfile(code, folder / "tokenization_chatglm.py")
            try:
                outputs = record(spec, folder, options)
            except subprocess.CalledProcessError as error:
                print(f"{path.stem}: refused\n{error.stderr.decode()[-1500:]}")
                continue
        spec["source"], spec["date"] = options.reference, datetime.date.today().isoformat()
        spec["outputs"] = outputs
        path.write_text(json.dumps(spec, indent=1, ensure_ascii=False) + "\n", "utf-8")
        print(f"{path.stem}: {', '.join(outputs)}", flush=True)


if __name__ == "__main__":
    main()
