"""A RAGFlow server on its first day, of several versions: accounts and keys in front of the engine's API.

What stands behind it really parses, embeds and answers. The routes in front and the traps are those of
facts/ragflow.md section 3 and golden/ragflow/exchanges/setup.json.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from ragflow_bench import KEY, Double, Server, application
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

_HOP = {"content-length", "transfer-encoding", "connection", "content-encoding", "date", "server"}


def pair(bits: int = 2048) -> tuple[rsa.RSAPrivateKey, str]:
    """A key pair: (private, public as PEM)."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return key, pem.decode()


class ColdDouble(Double):
    """An Ollama whose models load too slowly for RAGFlow's test: its calls fail until others loaded them.

    RAGFlow sends its provider's key along, other clients send none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.models = dict(Double.models)  # tests take some away
        self.loaded: set[str] = set()
        self.lists_capabilities = True
        self.num_ctx: dict[str, int] = {"smollm2:135m": 2048}

    async def _generate(self, request: Request) -> Response:
        self.loaded.add((await request.json())["model"])
        return await super()._generate(request)

    async def _tags(self, request: Request) -> Response:
        return JSONResponse(
            {
                "models": [
                    {"name": name, "model": name, "digest": name, "size": 1}
                    | ({"capabilities": capabilities} if self.lists_capabilities else {})
                    for name, (capabilities, _) in self.models.items()
                ]
            }
        )

    async def _show(self, request: Request) -> Response:
        name = (await request.json())["model"]
        answer = json.loads(bytes((await super()._show(request)).body))
        if name in self.num_ctx:
            answer["parameters"] = f"num_ctx                        {self.num_ctx[name]}"
        return JSONResponse(answer)

    async def _embed(self, request: Request) -> Response:
        if refused := await self._is_cold(request):
            return refused
        return await super()._embed(request)

    async def _chat(self, request: Request) -> Response:
        if refused := await self._is_cold(request):
            return refused
        return await super()._chat(request)

    async def _is_cold(self, request: Request) -> Response | None:
        name = (await request.json())["model"]
        if not request.headers.get("authorization"):
            self.loaded.add(name)
        if name in self.loaded:
            return None
        return JSONResponse({"error": "timed out"}, status_code=500)


class FreshServer:
    """version: which routes there are. accounts: address -> password (base64 as the server stores it).

    private: the key pair's private half; without one every password is taken that has the right form.
    lost: routes whose next answer is a proxy's 502 although the server acted; refused: the same, not acted.
    """

    def __init__(self, engine_url: str, version: str = "v0.27.0") -> None:
        self.engine_url = engine_url
        self.version = version
        self.number = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
        self.accounts: dict[str, str] = {}
        self.private: rsa.RSAPrivateKey | None = None
        self.registers = True
        self.sessions: set[str] = set()
        self.keys: list[str] = []
        self.owners: dict[str, str] = {}  # address by session token and by key
        self.hidden: set[str] = set()  # names that only keys see, as if they were another account's
        self.lines: list[str] = []
        self.lost: set[str] = set()
        self.refused: set[str] = set()
        self.defaults: dict[str, str] = {"asr_id": "whisper@x"}
        methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
        self.app = Starlette(routes=[Route("/{path:path}", self._answer, methods=methods)])

    @property
    def has_providers(self) -> bool:
        return self.number >= (0, 26, 0)

    async def _answer(self, request: Request) -> Response:
        body = await request.body()
        route = f"{request.method} {request.url.path}"
        self.lines.append(route)
        broken = Response("<html>502 Bad Gateway</html>", 502, media_type="text/html")
        if route in self.refused:
            self.refused.remove(route)
            return broken
        answer = await self._serve(request, route, body)
        if route in self.lost:
            self.lost.remove(route)
            return broken
        return answer

    async def _serve(self, request: Request, route: str, body: bytes) -> Response:
        old = self.number < (0, 25, 1)
        if route == "GET /api/v1/system/version":
            return self._ok(self.version)
        if route == ("POST /v1/user/login" if old else "POST /api/v1/auth/login"):
            return self._log_in(json.loads(body))
        if route == ("POST /v1/user/register" if old else "POST /api/v1/users"):
            return self._register(json.loads(body))
        if re.match(r"/api/v1/(auth|users$)|/v1/user/(login|register)", request.url.path):
            return self._missing(request)
        header = request.headers.get("authorization", "")
        if header not in self.sessions and header.removeprefix("Bearer ") not in self.keys:
            answer = {"code": 401, "data": None, "message": "<Unauthorized '401: Unauthorized'>"}
            return JSONResponse(answer, 401)
        owner = self.owners.get(header.removeprefix("Bearer "), "")
        if route == "POST /api/v1/system/tokens":
            self.keys.append("ragflow-" + secrets.token_urlsafe(32))
            self.owners[self.keys[-1]] = owner
            return self._ok({"token": self.keys[-1]})
        if route == "GET /api/v1/system/tokens":
            mine = [key for key in self.keys if self.owners.get(key, owner) == owner]
            return self._ok([{"token": key, "create_time": number} for number, key in enumerate(mine)])
        if route == ("GET /v1/user/info" if old else "GET /api/v1/users/me"):
            return self._ok({"id": hashlib.md5(owner.encode()).hexdigest(), "email": owner})
        if request.url.path in ("/v1/user/info", "/api/v1/users/me"):
            return self._missing(request)
        if not self.has_providers:
            return await self._old(request, route, body, old)
        if self.number < (0, 27, 0) and (answer := await self._between(request, route, body)):
            return answer
        return await self._pass(request, body)

    # -- accounts -------------------------------------------------------------------------------

    def _register(self, body: dict[str, str]) -> Response:
        if not self.registers:
            return self._fail(103, "User registration is disabled!")
        if body["email"] in self.accounts:
            return self._fail(103, f"Email: {body['email']} has already registered!")
        self.accounts[body["email"]] = self._decrypt(body["password"]) or ""
        return self._ok({"email": body["email"], "nickname": body["nickname"]})

    def _log_in(self, body: dict[str, str]) -> Response:
        if body["email"] not in self.accounts:
            return self._fail(109, f"Email: {body['email']} is not registered!")
        password = self._decrypt(body["password"])
        if password is None:
            return self._fail(500, "Fail to crypt password")
        if self.accounts[body["email"]] not in ("", password):
            return self._fail(109, "Email and password do not match!")
        # As in RAGFlow, a login ends the account's other sessions.
        self.sessions -= {one for one in self.sessions if self.owners[one] == body["email"]}
        token = secrets.token_urlsafe(40)
        self.sessions.add(token)
        self.owners[token] = body["email"]
        return JSONResponse(
            {"code": 0, "data": {}, "message": "Welcome back!"}, headers={"Authorization": token}
        )

    def _decrypt(self, text: str) -> str | None:
        cipher = base64.b64decode(text)
        if self.private is None:
            assert len(cipher) == 256
            return ""
        try:
            return self.private.decrypt(cipher, padding.PKCS1v15()).decode("ascii")
        except (ValueError, UnicodeDecodeError):
            return None

    # -- versions -------------------------------------------------------------------------------

    async def _between(self, request: Request, route: str, body: bytes) -> Response | None:
        """0.26.0: no address in an instance, one key per instance, no listing, `extra` is needed."""
        path = "/api/v1/providers/Ollama"
        if route == f"GET {path}/models":
            return self._fail(102, "No models found for provider 'Ollama'")
        if route == f"POST {path}/instances":
            sent = json.loads(body)
            if any("extra" not in one for one in sent["model_info"]):
                return self._fail(102, "Internal server error")
            for name in await self._instances():
                detail = await self._engine("GET", f"/providers/Ollama/instances/{name}")
                if detail["data"]["api_key"] == sent["api_key"]:
                    return self._fail(102, f"Already exist instance: {name} with api_key {sent['api_key']}")
        if re.fullmatch(rf"GET {path}/instances/[^/]+", route):
            answer = await self._engine("GET", request.url.path.removeprefix("/api/v1"))
            for key in ("base_url", "api_key"):
                answer.get("data", {}).pop(key, None)
            return JSONResponse(answer)
        return None

    async def _old(self, request: Request, route: str, body: bytes, old: bool) -> Response:
        """0.25: one table of models, names of two parts."""
        if re.match(r"/api/v1/(providers|models)", request.url.path):
            return self._missing(request)
        if route == "POST /v1/llm/add_llm":
            return await self._add_llm(json.loads(body))
        if route == "GET /v1/llm/my_llms":
            return self._ok(await self._table())
        if route == ("GET /v1/user/tenant_info" if old else "GET /api/v1/users/me/models"):
            return self._ok({"tenant_id": "t" * 32, **self.defaults})
        if route == ("POST /v1/user/set_tenant_info" if old else "PATCH /api/v1/users/me/models"):
            sent = json.loads(body)
            missing = {"tenant_id", "asr_id", "embd_id", "img2txt_id", "llm_id"} - sent.keys()
            if missing:
                return self._fail(101, f"required argument are missing: {', '.join(missing)}; ")
            self.defaults |= {key: value for key, value in sent.items() if key != "tenant_id"}
            return self._ok(True)
        if request.url.path in (
            "/v1/user/tenant_info",
            "/v1/user/set_tenant_info",
            "/api/v1/users/me/models",
        ):
            return self._missing(request)
        names = rb'(?<!@local)@Ollama"'
        return await self._pass(request, re.sub(names, b'@local@Ollama"', body))

    async def _add_llm(self, sent: dict[str, Any]) -> Response:
        assert sent["llm_factory"] == "Ollama"
        model = {
            "model_name": sent["llm_name"],
            "model_type": [sent["model_type"]],
            "max_tokens": sent["max_tokens"],
        }
        await self._engine("PUT", "/providers", {"provider_name": "Ollama"})
        # A look at each model, as add_llm does: an instance that is made for it alone and taken away again.
        trial = {
            "api_key": "x",
            "base_url": sent["api_base"],
            "model_info": [model],
            "instance_name": "trial",
        }
        tried = await self._engine("POST", "/providers/Ollama/instances", trial)
        if tried["code"] != 0:
            return self._fail(102, tried["message"])
        await self._engine("DELETE", "/providers/Ollama/instances", {"instances": ["trial"]})
        if "local" not in await self._instances():
            made = {"instance_name": "local", "api_key": "x", "base_url": sent["api_base"], "model_info": []}
            await self._engine("POST", "/providers/Ollama/instances", made)
        path = "/providers/Ollama/instances/local/models"
        await self._engine("DELETE", path, {"model_name": [sent["llm_name"]]})
        await self._engine("POST", path, {**model, "model_type": sent["model_type"]})
        return self._ok(True)

    async def _table(self) -> dict[str, Any]:
        if "local" not in await self._instances():
            return {}
        url = (await self._engine("GET", "/providers/Ollama/instances/local"))["data"]["base_url"]
        rows = (await self._engine("GET", "/providers/Ollama/instances/local/models"))["data"]
        listed = [
            {
                "type": row["model_type"][0],
                "name": row["name"],
                "used_token": 0,
                "api_base": url,
                "max_tokens": row["max_tokens"],
                "status": "1",
            }
            for row in rows
        ]
        return {"Ollama": {"tags": "LLM", "llm": listed}}

    async def _instances(self) -> list[str]:
        found = await self._engine("GET", "/providers/Ollama/instances")
        return [one["instance_name"] for one in found["data"]]

    # -- the engine behind ----------------------------------------------------------------------

    async def _engine(self, method: str, path: str, body: object = None) -> Any:
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            url = f"{self.engine_url}/api/v1{path}"
            answer = await http.request(method, url, json=body, headers={"Authorization": f"Bearer {KEY}"})
        return answer.json()

    async def _pass(self, request: Request, body: bytes) -> Response:
        headers = {
            key: value for key, value in request.headers.items() if key not in ("host", "content-length")
        }
        headers["authorization"] = f"Bearer {KEY}"
        url = f"{self.engine_url}{request.url.path}?{request.url.query}"
        async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
            answer = await http.request(request.method, url, content=body, headers=headers)
        content = answer.content
        if self.hidden and request.headers.get("authorization") in self.sessions:
            content = self._hide(content)
        if not self.has_providers:
            content = content.replace(b"@local@Ollama", b"@Ollama")
        kept = {key: value for key, value in answer.headers.items() if key.lower() not in _HOP}
        return Response(content, answer.status_code, kept)

    def _hide(self, content: bytes) -> bytes:
        """A list of datasets or chats without those that the page's account does not see."""
        document = json.loads(content)
        data = document.get("data")
        rows = data.get("chats") if isinstance(data, dict) else data
        if isinstance(rows, list):
            rows[:] = [row for row in rows if row.get("name") not in self.hidden]
        return json.dumps(document).encode()

    def _ok(self, data: object) -> Response:
        return JSONResponse({"code": 0, "data": data, "message": "success"})

    def _fail(self, code: int, message: str) -> Response:
        return JSONResponse({"code": code, "data": False, "message": message})

    def _missing(self, request: Request) -> Response:
        answer = {"code": 404, "error": "Not Found", "message": f"Not Found: {request.url.path}"}
        return JSONResponse({"data": None, **answer}, 404)


class Day:
    """One fresh server with its Ollama, running. url and ollama_url as a client reaches them."""

    def __init__(self, fresh: FreshServer, url: str, ollama: ColdDouble, ollama_url: str) -> None:
        self.fresh = fresh
        self.url = url
        self.ollama = ollama
        self.ollama_url = ollama_url


@contextlib.contextmanager
def first_day(data_dir: Path, version: str = "v0.27.0") -> Iterator[Day]:
    """A server where nobody has an account, beside an Ollama that has nothing loaded."""
    double = ColdDouble()
    with Server(double.app) as ollama, Server(application(data_dir)) as engine:
        fresh = FreshServer(engine.url, version)
        with Server(fresh.app) as server:
            yield Day(fresh, server.url, double, ollama.url)
