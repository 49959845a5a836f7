"""The RAG half of the engine as a process of its own, to be killed: PORT DATA_DIR SELF_URL."""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn
from ragflow_bench import application

if __name__ == "__main__":
    port, data_dir, self_url = sys.argv[1:]
    uvicorn.run(application(Path(data_dir), self_url), host="127.0.0.1", port=int(port), log_level="error")
