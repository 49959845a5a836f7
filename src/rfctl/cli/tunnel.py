"""`rfctl tunnel`: ports of a server that only ssh reaches."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.core.error import RefusedError, UsageError
from rfctl.stack.check_network import is_loopback_address
from rfctl.stack.tunnel import (
    LOOPBACK,
    Place,
    Plan,
    State,
    check_host,
    check_name,
    current,
    find_silent,
    parse_forward,
    places,
)

# Docker's bridge: containers reach it, the network does not.
BRIDGE = "172.17.0.1"


@command("open")
@click.argument("host", metavar="[USER@]HOST")
@click.option("--map", "maps", multiple=True, metavar="SERVICE|[PORT:[HOST:]]PORT")
@click.option("--reverse", is_flag=True)
@click.option("--name", default="", metavar="NAME")
@click.option("--for-containers", is_flag=True)
@click.option("--bind", default="", metavar="ADDRESS")
@click.option("--i-know", is_flag=True)
@click.option("--ssh-port", type=click.IntRange(1, 65535), metavar="N")
@click.option("--ssh-config", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE")
def open_(
    app: App,
    host: str,
    maps: tuple[str, ...],
    reverse: bool,
    name: str,
    for_containers: bool,
    bind: str,
    i_know: bool,
    ssh_port: int | None,
    ssh_config: Path | None,
) -> None:
    """Without --map: ollama and ragflow. The tunnel outlives this command and comes back by itself."""
    from rfctl.stack.tunnel_watch import open_tunnel

    address = bind or (BRIDGE if for_containers else LOOPBACK)
    if not is_loopback_address(address) and address != BRIDGE and not i_know:
        raise RefusedError("tunnel.exposed", address=address)
    check_host(host)
    plan = Plan(
        check_name(name or host.rpartition("@")[2].strip("[]").replace(":", "-")),
        host,
        tuple(parse_forward(one, bind=address, is_reverse=reverse) for one in maps or ("ollama", "ragflow")),
        ssh_port or 0,
        str(ssh_config.absolute()) if ssh_config else "",
    )
    state, is_new = open_tunnel(plan, _folder(app), reporter=app.reporter())
    silent = find_silent(plan.forwards)
    app.out.report({"unchanged": not is_new, **_document(state), "silent": silent})
    app.out.say("tunnel.opened" if is_new else "tunnel.open-already", name=plan.name, host=host)
    for forward in plan.forwards:
        here = f"{forward.bind}:{forward.port}"
        there = f"{forward.target}:{forward.target_port}"
        app.out.say("tunnel.reverse" if reverse else "tunnel.forward", here=here, there=there, host=host)
    for forward in silent:
        app.out.note("tunnel.silent", host=host, there=f"{forward.target}:{forward.target_port}")
    if reverse and not is_loopback_address(address):
        app.out.note("tunnel.reverse-address", host=host, address=address)
    app.out.note("tunnel.next", name=plan.name)


@command("status")
@click.argument("name", required=False)
def status(app: App, name: str | None) -> None:
    """List the tunnels of this user."""
    found = [state for place in _chosen(app, name) if (state := current(place)) is not None]
    app.out.records(_document(state) for state in found)
    if not found:
        app.out.note("tunnel.none")
        return
    rows = [
        (
            state.plan.name,
            state.plan.host,
            app.out.text(f"tunnel.state-{state.state}"),
            state.restarts,
            " ".join(str(one) for one in state.plan.forwards),
            "-" if state.state == "up" else state.detail or "-",
        )
        for state in found
    ]
    headings = ("name", "host", "state", "restarts", "forwards", "detail")
    app.out.table([app.out.text(f"tunnel.column-{one}") for one in headings], rows)


@command("close")
@click.argument("name", required=False)
@click.option("--all", "every", is_flag=True)
def close(app: App, name: str | None, every: bool) -> None:
    """Close one tunnel, or all of them."""
    from rfctl.stack.tunnel_watch import close_tunnel

    if bool(name) == every:
        raise UsageError("tunnel.which", known=", ".join(one.name for one in places(_folder(app))) or "-")
    chosen = _chosen(app, name)
    closed = [place.name for place in chosen if close_tunnel(place)]
    app.out.report({"closed": closed})
    for one in closed:
        app.out.say("tunnel.closed", name=one)
    if not closed:
        app.out.say("tunnel.none")


def _chosen(app: App, name: str | None) -> list[Place]:
    found = places(_folder(app))
    if not name:
        return found
    chosen = [place for place in found if place.name == name]
    if not chosen:
        known = ", ".join(place.name for place in found) or "-"
        raise UsageError("tunnel.unknown", name=name, known=known)
    return chosen


def _folder(app: App) -> Path:
    return app.directories.data / "tunnel"


def _document(state: State) -> dict[str, object]:
    return {
        "name": state.plan.name,
        "host": state.plan.host,
        "state": state.state,
        "forwards": state.plan.forwards,
        "restarts": state.restarts,
        "since": datetime.fromtimestamp(state.since, UTC),
        "detail": state.detail,
        "pid": state.pid,
        "ssh_pid": state.ssh_pid,
    }
