"""What rfctl relies on in a release of RAGFlow, read from a checkout of it: its Helm chart rendered with our
values, and the names and images of its docker/ folder.

    python tools/read_ragflow_release.py ~/ragflow             # says what differs; exit 1 if anything does
    python tools/read_ragflow_release.py ~/ragflow --write     # takes it over, except `source`: edit that

The facts are tests/stack/ragflow_release.json; tests/stack/test_ragflow_release.py holds deploy/k8s and docker/
to them. Only names, labels, ports and image tags are kept, nothing of RAGFlow's text. Needs helm-python-sdk.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
FACTS = ROOT / "tests" / "stack" / "ragflow_release.json"
RELEASE = "ragflow"
# Stand-ins for the files of secrets that deploy/k8s/README.md makes.
NAMES = ("MYSQL_PASSWORD", "REDIS_PASSWORD", "MINIO_PASSWORD", "ELASTIC_PASSWORD", "RAGFLOW_SECRET_KEY")
SECRETS = {"env": dict.fromkeys(NAMES, "0a" * 24)}
SECRETS_EXTERNAL = {
    "ragflow": {
        "service_conf": {"s3": {"access_key": "0b", "secret_key": "0c"}, "es": {"password": "0d"}},
    }
}
CASES: dict[str, tuple[str, ...]] = {
    "own": ("values.yaml",),
    "external": ("values.yaml", "values-external.yaml"),
}


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """As Helm lays one values file over another."""
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        merged[name] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def values_of(case: str, folder: Path = ROOT / "deploy" / "k8s") -> dict[str, Any]:
    """Our values for one case, with stand-ins for the secrets."""
    values: dict[str, Any] = {}
    for name in CASES[case]:
        values = merge(values, yaml.safe_load((folder / name).read_text(encoding="utf-8")))
    values = merge(values, SECRETS)
    return merge(values, SECRETS_EXTERNAL) if case == "external" else values


def render(chart: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects that Helm makes of a chart."""
    from helm_python.chart import Chart

    with Chart.load(chart) as loaded:
        texts = loaded.render(values, name=RELEASE, namespace=RELEASE)
    return [one for text in texts.values() for one in yaml.safe_load_all(text) if one]


def paths(values: object, prefix: str = "") -> Iterator[str]:
    """The dotted names of the keys in a values file, maps and leaves."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield f"{prefix}{name}"
            yield from paths(value, f"{prefix}{name}.")


def read_objects(objects: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Names, labels, ports, images and the variables of secrets, of rendered objects."""
    found: dict[str, Any] = {"objects": {}, "secrets": {}, "pods": {}, "services": {}}
    for one in objects:
        kind, name, spec = one["kind"], one["metadata"]["name"], one.get("spec", {})
        found["objects"].setdefault(kind, []).append(name)
        if kind == "Secret":
            found["secrets"][name] = sorted(one["stringData"])
        elif kind == "Service":
            found["services"][name] = {
                "ports": [port["port"] for port in spec["ports"]],
                "selector": spec["selector"],
            }
        elif kind in {"Deployment", "StatefulSet"}:
            found["pods"][f"{kind}/{name}"] = _read_pod(spec["template"])
            if kind == "Deployment":  # RAGFlow itself; how the databases are started is not our business
                container = spec["template"]["spec"]["containers"][0]
                found["pods"][f"{kind}/{name}"] |= {
                    "args": container.get("args", []),
                    "mounts": sorted(one["mountPath"] for one in container.get("volumeMounts", [])),
                }
    found["objects"] = {kind: sorted(names) for kind, names in sorted(found["objects"].items())}
    return found


def _read_pod(template: dict[str, Any]) -> dict[str, Any]:
    spec = template["spec"]
    first = spec["containers"][0]
    labels = {
        name: value
        for name, value in template["metadata"]["labels"].items()
        if name.rsplit("/", 1)[-1] in {"name", "instance", "component"}
    }
    return {
        "labels": labels,
        "image": first["image"],
        "ports": {port["name"]: port["containerPort"] for port in first.get("ports", [])},
        "env_from": [next(iter(one.values()))["name"] for one in first.get("envFrom", [])],
        "privileged": [
            one["name"]
            for one in [*spec.get("initContainers", []), *spec["containers"]]
            if one.get("securityContext", {}).get("privileged")
        ],
    }


def read_chart(chart: Path) -> dict[str, Any]:
    values = yaml.safe_load((chart / "values.yaml").read_text(encoding="utf-8"))
    env = values.pop("env")
    return {
        "tag": values["ragflow"]["image"]["tag"],
        "values": sorted(paths(values)),
        "env": sorted(env),
        "rendered": {case: read_objects(render(chart, values_of(case))) for case in CASES},
    }


def read_docker(folder: Path) -> dict[str, Any]:
    """docker/ of RAGFlow: flags of the entrypoint, variables, images and container ports of the services."""
    entrypoint = (folder / "entrypoint.sh").read_text(encoding="utf-8")
    template = (folder / "service_conf.yaml.template").read_text(encoding="utf-8")
    env = (folder / ".env").read_text(encoding="utf-8")
    names = {match[1] for match in re.finditer(r"^#? ?([A-Z][A-Z0-9_]+)=", env, re.MULTILINE)}
    names |= {match[1] for match in re.finditer(r"\$\{?([A-Z][A-Z0-9_]+)", template + entrypoint)}
    services: dict[str, Any] = {}
    for name in ("docker-compose-base.yml", "docker-compose.yml"):
        services |= yaml.safe_load((folder / name).read_text(encoding="utf-8"))["services"]
    defaults = dict(re.findall(r"^([A-Z][A-Z0-9_]+)=(\S*)$", env, re.MULTILINE))
    return {
        "flags": sorted(set(re.findall(r"^\s+(--[a-z-]+)=?\*?\)", entrypoint, re.MULTILINE))),
        "env": sorted(names),
        "images": {
            name: _expand(service["image"], defaults)
            for name, service in sorted(services.items())
            if "image" in service
        },
        "ports": {
            name: sorted({int(str(port).rsplit(":", 1)[-1]) for port in service["ports"]})
            for name, service in sorted(services.items())
            if "ports" in service
        },
    }


def _expand(text: str, values: dict[str, str]) -> str:
    """A Compose value with its variables filled in; twice, because a default may name another."""

    def fill(match: re.Match[str]) -> str:
        return values.get(match[1]) or match[2] or ""

    for _ in range(2):
        text = re.sub(r"\$\{([A-Z0-9_]+)(?::?-([^}]*))?\}", fill, text)
    return text


def read(checkout: Path) -> dict[str, Any]:
    """The facts of a checkout, as in the file, without `source`."""
    return {"chart": read_chart(checkout / "helm"), "docker": read_docker(checkout / "docker")}


def compare(known: object, found: object, path: str = "") -> Iterator[str]:
    """One line for everything that is not the same."""
    if isinstance(known, dict) and isinstance(found, dict):
        for name in sorted({*known, *found}):
            yield from compare(known.get(name), found.get(name), f"{path}/{name}")
    elif isinstance(known, list) and isinstance(found, list):
        yield from (f"{path}: gone: {one}" for one in known if one not in found)
        yield from (f"{path}: new: {one}" for one in found if one not in known)
    elif known != found:
        yield f"{path}: {known!r} -> {found!r}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    known = json.loads(FACTS.read_text(encoding="utf-8"))
    found = read(options.checkout)
    lines = list(compare({name: known[name] for name in found}, found))
    print("\n".join(lines) or "nothing has changed")
    if options.write and lines:
        FACTS.write_text(
            json.dumps({"source": known["source"], **found}, indent=1, ensure_ascii=False) + "\n",
            encoding="utf-8",
        )
    return 1 if lines and not options.write else 0


if __name__ == "__main__":
    sys.exit(main())
