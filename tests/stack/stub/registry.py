"""A registry that has one image under every name; `gone` in a name is an image that does not exist.

python3 registry.py PORT ROOT.tar. Speaks as much of the distribution protocol as a pull and a digest need.
"""

import gzip
import hashlib
import http.server
import json
import sys
from pathlib import Path


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


ROOT = Path(sys.argv[2]).read_bytes()
LAYER = gzip.compress(ROOT, mtime=0)
CONFIG = json.dumps(
    {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest(ROOT)]},
    }
).encode()
TYPE = "application/vnd.docker.distribution.manifest.v2+json"
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": TYPE,
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "size": len(CONFIG),
            "digest": digest(CONFIG),
        },
        "layers": [
            {
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "size": len(LAYER),
                "digest": digest(LAYER),
            }
        ],
    }
).encode()
BLOBS = {digest(CONFIG): CONFIG, digest(LAYER): LAYER}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        parts = self.path.split("/")
        status, kind, body = 404, "application/json", b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}'
        if self.path == "/v2/":
            status, body = 200, b"{}"
        elif "manifests" in parts and "gone" not in self.path:
            status, kind, body = 200, TYPE, MANIFEST
        elif "blobs" in parts and parts[-1] in BLOBS:
            status, kind, body = 200, "application/octet-stream", BLOBS[parts[-1]]
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Docker-Content-Digest", digest(body))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
