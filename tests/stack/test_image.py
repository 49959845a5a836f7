"""Which step between images is an upgrade, and what a manifest may say: without an engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rfctl.core.error import RfctlError
from rfctl.stack.image import changes, record_images, recorded_images, tag, version
from rfctl.stack.manifest import MANIFEST, SETTINGS, read_backup
from rfctl.stack.project import Project, initialise, parse_env, set_values


@pytest.mark.parametrize(
    ("before", "after", "direction"),
    [
        ("infiniflow/ragflow:v0.26.0", "infiniflow/ragflow:v0.27.0", "up"),
        ("infiniflow/ragflow:v0.27.0", "infiniflow/ragflow:v0.26.1", "down"),
        ("infiniflow/ragflow:v0.9.0", "infiniflow/ragflow:v0.27.0", "up"),
        ("infiniflow/ragflow:v0.27.0", "mirror.example:5000/ragflow:v0.27.0", None),
        ("valkey/valkey:8", "valkey/valkey:8@sha256:" + "0" * 64, None),
        ("silo:RELEASE.2026-08-06T00-00-00Z", "silo:RELEASE.2026-10-01T00-00-00Z", "up"),
        ("infiniflow/ragflow:nightly", "infiniflow/ragflow:v0.27.0", "other"),
        ("infiniflow/ragflow@sha256:" + "0" * 64, "infiniflow/ragflow:v0.27.0", None),
    ],
)
def test_only_another_version_is_a_change(before: str, after: str, direction: str | None) -> None:
    found = changes({"ragflow": before, "gone": "x:1"}, {"ragflow": after, "new": "x:2"})
    assert [(change.service, change.direction) for change in found] == (
        [("ragflow", direction)] if direction else []
    )


@given(st.text(max_size=60))
def test_any_name_has_a_tag_and_a_version(text: str) -> None:
    assert isinstance(version(tag(text)), tuple)


def test_the_record_of_a_start(tmp_path: Path) -> None:
    project = Project(tmp_path)
    assert recorded_images(project) == {}
    record_images(project, {"ragflow": "a:1"})
    assert recorded_images(project) == {"ragflow": "a:1"}
    for broken in ("", "[]", '{"images": 3}', "\xff"):
        project.images_file.write_text(broken, encoding="latin-1")
        assert recorded_images(project) == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
GOOD = {
    "schema_version": 1, "project": "rfctl", "made": "2026-11-25T00:00:00+00:00", "rfctl": "1",
    "engine": "28",
    "images": {"redis": "valkey/valkey:8"},
    "archives": [{"volume": "a", "file": "a.tar.gz", "sha256": "0", "size": 1, "content": 1}],
}  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.sampled_from(sorted(GOOD)), JSON)
def test_a_strange_manifest_is_a_broken_backup(tmp_path: Path, key: str, value: object) -> None:
    (tmp_path / SETTINGS).write_text("", encoding="utf-8")
    (tmp_path / MANIFEST).write_text(json.dumps(GOOD | {key: value}), encoding="utf-8")
    with pytest.raises(RfctlError) as caught:
        # Even a good one is broken here: its archive is not there.
        read_backup(tmp_path)
    assert caught.value.id == "stack.backup-broken"


NAMES = st.sampled_from(["RFCTL_BIND", "RFCTL_WEB_PORT", "TZ", "NEW_ONE"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.dictionaries(NAMES, st.from_regex(r"[A-Za-z0-9.]{1,8}", fullmatch=True)))
def test_set_values_changes_what_it_is_told_to(tmp_path: Path, values: dict[str, str]) -> None:
    project = Project(tmp_path)
    project.env_file.unlink(missing_ok=True)
    initialise(project, size="small")
    project.env_file.write_text("# mine\n" + project.env_file.read_text("utf-8"), encoding="utf-8")
    before = project.read()
    set_values(project, values)
    assert project.read() == before | values
    assert project.env_file.read_text("utf-8").startswith("# mine\n")
    assert parse_env(project.env_file.read_text("utf-8")) == project.read()
