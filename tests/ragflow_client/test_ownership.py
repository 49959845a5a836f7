"""Whose a key is, on servers of several versions, and what the web page of its account shows."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from fresh_server import first_day

from rfctl.core.error import AuthError, RfctlError, UsageError
from rfctl.ragflow_client import ownership
from rfctl.ragflow_client.account import Account, obtain_key
from rfctl.ragflow_client.dataset import list_datasets
from rfctl.ragflow_client.ownership import SameView, compare_views, find_owner
from rfctl.ragflow_client.transport import Api


@pytest.mark.parametrize("version", ["v0.25.0", "v0.25.6", "v0.26.1", "v0.27.0"])
def test_page_and_key_see_the_same(version: str, tmp_path: Path) -> None:
    with first_day(tmp_path, version) as day:
        access = obtain_key(day.url, Account("rf@example.com", "secret"))
        assert access.session not in repr(access)
        with Api(day.url, access.api_key) as key, Api(day.url, None) as page:
            page.authorise(access.session)
            owner = find_owner(key)
            assert owner is not None
            assert (owner, owner.email) == (find_owner(page), "rf@example.com")
            assert compare_views(key, page) == SameView(0, 0)
            key.call("POST", "/datasets", json={"name": "by-key"})
            page.call("POST", "/datasets", json={"name": "by-page"})
            assert compare_views(key, page) == SameView(2, 0)
            assert {one.name for one in list_datasets(page)} == {"by-key", "by-page"}


def test_the_routes_are_those_of_a_real_server(golden: Path) -> None:
    """Recorded from RAGFlow 0.27.0: the page's session asks who it is, a key lists what the page lists."""
    facts = tomllib.loads((Path(ownership.__file__).with_name("web_page.toml")).read_text("utf-8"))
    seen = {}
    for path in sorted((golden / "ragflow" / "exchanges").glob("*.json")):
        for exchange in json.loads(path.read_text("utf-8"))["exchanges"]:
            request, response = exchange["request"], exchange["response"]
            if request["method"] == "GET" and (response.get("json") or {}).get("code") == 0:
                seen.setdefault((request["path"], request["auth"]), response["json"]["data"])
    account = seen[f"/api/v1{facts['account'][0]['path']}", "session token"]
    assert {"id", "email"} <= account.keys()
    assert isinstance(seen[f"/api/v1{facts['page']['datasets']}", "api key"], list)
    assert {"chats", "total"} <= seen[f"/api/v1{facts['page']['chats']}", "api key"].keys()
    documents = facts["page"]["documents"].format(dataset="<dataset_1>")
    assert (f"/api/v1{documents}", "api key") in seen


def test_two_accounts_and_a_view_that_differs(tmp_path: Path) -> None:
    with first_day(tmp_path) as day:
        mine = obtain_key(day.url, Account("me@example.com", "secret"))
        theirs = obtain_key(day.url, Account("you@example.com", "secret"))
        with Api(day.url, mine.api_key) as key, Api(day.url, None) as page:
            page.authorise(theirs.session)
            with pytest.raises(UsageError) as caught:
                compare_views(key, page)
            assert (caught.value.id, caught.value.params) == (
                "ownership.other-account",
                {"key": "me@example.com", "page": "you@example.com"},
            )
            page.authorise(mine.session)
            key.call("POST", "/datasets", json={"name": "papers"})
            day.fresh.hidden = {"papers"}
            with pytest.raises(RfctlError) as differs:
                compare_views(key, page)
            assert differs.value.params == {"kind": "datasets", "name": "papers", "key": 1, "page": 0}
            page.authorise("expired")
            with pytest.raises(AuthError):
                find_owner(page)


def test_a_login_ends_other_sessions_so_none_is_made_to_look(tmp_path: Path) -> None:
    with first_day(tmp_path) as day:
        access = obtain_key(day.url, Account("rf@example.com", "secret"))
        with Api(day.url, access.api_key) as key, Api(day.url, None) as page:
            page.authorise(access.session)
            assert find_owner(key) == find_owner(page)
        obtain_key(day.url, Account("rf@example.com", "secret"))
        with Api(day.url, None) as page:
            page.authorise(access.session)
            with pytest.raises(AuthError):
                find_owner(page)
