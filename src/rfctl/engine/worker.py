"""`python -m rfctl.engine.worker`: one loaded model in a process of its own.

The parent writes one JSON line to stdin (the fields of `process.Spec` and `api_key`), reads one from stdout
(`{"port": N}` or `{"error": "..."}`) and then talks HTTP to that loopback port; stderr carries llama.cpp's
messages. The process ends when its stdin closes, so it never outlives the parent. This is the only module
that imports xllamacpp: llama.cpp aborts the whole process on some damaged models.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

EXIT_LOAD_FAILED = 1
_SPARE_BYTES = 4 << 30


def main() -> None:
    """Load the model, announce the port or the failure, and wait for the end of stdin."""
    # llama.cpp writes to descriptor 1 as it likes; the protocol gets a descriptor of its own.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    spec: dict[str, Any] = json.loads(sys.stdin.readline())
    failed = threading.Event()
    threading.Thread(target=_end_with_parent, args=(failed,), daemon=True).start()
    try:
        server = _load(spec)
        _bound_memory()
        answer: dict[str, object] = {"port": int(str(server.listening_address).rpartition(":")[2])}
    except (RuntimeError, ValueError) as error:
        failed.set()
        answer = {"error": str(error)}
    channel.write(json.dumps(answer) + "\n")
    channel.flush()
    # After a failure too: llama.cpp's log has a thread of its own that may still hold the reason, so the
    # parent closes stdin when it has read enough.
    threading.Event().wait()


def _end_with_parent(failed: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    # os._exit: the native threads need no farewell, and a lock held by them must not delay the end.
    os._exit(EXIT_LOAD_FAILED if failed.is_set() else 0)


def _load(spec: dict[str, Any]) -> Any:
    # Read by libgomp when it is loaded: spinning threads make a busy machine 30 times slower.
    os.environ["OMP_WAIT_POLICY"] = "passive"
    # Else an assertion that fails starts a debugger if there is one.
    os.environ["GGML_NO_BACKTRACE"] = "1"
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = spec["path"]
    params.n_ctx = spec["num_ctx"]
    params.n_batch = spec["num_batch"]
    params.n_ubatch = spec["num_ubatch"]
    params.n_parallel = 1
    params.n_keep = spec["num_keep"]
    params.ctx_shift = True
    params.embedding = spec["is_embedding"]
    params.cpuparams.n_threads = spec["num_thread"]
    params.cpuparams_batch.n_threads = spec["num_thread"]
    params.api_keys = [spec["api_key"]]
    # The default host prompt cache grows to 8 GiB.
    params.cache_ram_mib = 0
    # Each is a copy of a sliding window or a recurrent state, some 400 MB for 27B: 32 would fill the memory
    # in one long conversation, and the limit below would end the worker.
    params.n_ctx_checkpoints = 4
    params.prefill_assistant = False
    params.warmup = False
    params.offline = True
    params.ui = False
    params.use_jinja = True
    # Measuring the memory first would load every model twice.
    params.fit_params = False
    params.verbosity = 1
    return xllamacpp.Server(params)


def _bound_memory() -> None:
    """What a loaded model may take on top: its template can double a text until the machine has no memory.

    Linux only (elsewhere the limit has no effect); buffers for computing are there when a model is loaded.
    """
    if sys.platform != "linux":
        return
    import resource

    lines = Path("/proc/self/status").read_text("ascii", errors="replace").splitlines()
    sizes = [int(line.split()[1]) for line in lines if line.startswith("VmData:")]
    if sizes:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = (sizes[0] << 10) + _SPARE_BYTES
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


if __name__ == "__main__":
    main()
