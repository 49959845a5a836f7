"""`rfctl chat web`: the conversation as a page in the browser."""

from __future__ import annotations

import os
import sys
import webbrowser

import click

from rfctl.cli.app import App
from rfctl.cli.command import command


@command("web")
@click.argument("name", required=False)
@click.option("--port", type=click.IntRange(1, 65535), metavar="N")
@click.option("--no-open", is_flag=True)
def web(app: App, name: str | None, port: int | None, no_open: bool) -> None:
    """Serve the page until Ctrl-C."""
    from rfctl.web.launch import check_extra, open_page
    from rfctl.web.place import Place

    check_extra()
    endpoints = app.endpoints()
    chosen = name or app.settings.get("chat.default")
    if chosen or not endpoints.embedded_ragflow:
        # What is wrong with the address, the key or the name is better said here than on the page.
        with app.ragflow() as ragflow:
            chosen = ragflow.chat(chosen).name if chosen else ""
    place = Place(
        language=app.language,
        profile=endpoints.profile,
        ragflow_url="" if endpoints.embedded_ragflow else endpoints.ragflow_url,
        engine=app.directories.engine,
        cache=app.directories.cache,
        chat=chosen,
        api_key="" if endpoints.embedded_ragflow else app.ragflow_key(endpoints),
    )
    with open_page(place, port=port or 0, reporter=app.reporter()) as page:
        app.out.report({"url": page.url, "port": page.port, "pid": page.pid})
        app.out.say("web.ready", url=page.url)
        if not no_open and not _open_browser(page.url):
            app.out.warn("web.not-opened", port=page.port)
        app.out.note("web.running")
        try:
            page.wait()
        except KeyboardInterrupt:
            page.stop()
    app.out.note("web.stopped-page")


def _open_browser(url: str) -> bool:
    """Whether a browser with a screen took the address; one in this terminal would take the terminal."""
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or os.environ.get("WSL_DISTRO_NAME")
    ):
        return False
    try:
        return webbrowser.open(url)
    except webbrowser.Error:
        return False
