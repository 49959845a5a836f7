"""Stands in for the programs of the stack inside containers: answers on their ports, or fails as told.

python3 stub.py ROLE MODE; MODE: ok, dead (port closed), exitN, oom.
"""

import http.server
import json
import signal
import sys
import threading
import time

ROLE, MODE = sys.argv[1], sys.argv[2]
PORTS = {"ragflow": (80, 9380), "es01": (9200,), "minio": (9000,), "ollama": (11434,)}
HEALTHY = dict.fromkeys(("db", "redis", "doc_engine", "storage", "status"), "ok")


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answers = {"/api/v1/system/ping": "pong", "/api/v1/system/healthz": json.dumps(HEALTHY)}
        version = json.dumps({"code": 0, "data": "v0.27.0", "message": "success"})
        body = (answers | {"/api/v1/system/version": version}).get(self.path.partition("?")[0], "{}").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
if MODE.startswith("exit"):
    print("bootstrap check failure [1] of [1]: max virtual memory areas vm.max_map_count [65530] is too low")
    sys.exit(int(MODE.removeprefix("exit")))
if MODE == "oom":
    hoard = []
    while True:
        hoard.append(b"x" * (8 << 20))
if MODE == "ok":
    for port in PORTS.get(ROLE, ()):
        server = http.server.ThreadingHTTPServer(("0.0.0.0", port), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
print("INFO task_executor_0 reported heartbeat: {}", flush=True)
while True:
    time.sleep(1)
