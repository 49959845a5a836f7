"""What a backup notes before it stops containers, and what becomes of the note, without an engine."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rfctl.core.error import RefusedError, RfctlError
from rfctl.core.lock import FileLock
from rfctl.stack.compose import Compose
from rfctl.stack.image_lock import lock_files, remove_lock, write_lock
from rfctl.stack.lifecycle import _clear_stop
from rfctl.stack.project import Project
from rfctl.stack.unfinished import CutOff, clear_part, clear_stop, hold, note_stop, read_stop, require_idle

NOTE = "backup.unfinished"


def test_a_note_is_believed_only_when_its_writer_is_gone(tmp_path: Path) -> None:
    project, partial = Project(tmp_path / "stack"), tmp_path / ".saved.partial"
    partial.mkdir()
    (partial / "mysql_data.tar.gz").write_bytes(b"x")
    code = (
        "import sys; from pathlib import Path; from rfctl.stack.project import Project;"
        "from rfctl.stack.unfinished import hold, note_stop\n"
        "with hold(Project(Path(sys.argv[1]))):\n"
        "    note_stop(Project(Path(sys.argv[1])), Path(sys.argv[2]), ['a', 'b'])\n"
        "    print('noted', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(project.directory), str(partial)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline().strip() == b"noted"
        assert read_stop(project) is None
        with pytest.raises(RefusedError) as caught:
            require_idle(project)
        assert caught.value.id == "stack.busy"
        with pytest.raises(RefusedError), hold(project):
            pass
        # An `up` that ends while a backup has begun leaves that one's part alone.
        assert (_clear_stop(Compose(project, {})), partial.exists()) == ("", True)
        writer.kill()
    assert read_stop(project) == CutOff(partial, ("a", "b"))
    require_idle(project)
    assert clear_part(project) == CutOff(partial, ("a", "b"))
    # The next backup may be killed too, before it has noted anything.
    assert (partial.exists(), read_stop(project)) == (False, CutOff(partial, ("a", "b")))
    assert clear_stop(project) == CutOff(partial, ("a", "b"))
    assert (partial.exists(), read_stop(project), clear_stop(project)) == (False, None, None)


def test_who_only_asks_does_not_refuse_a_backup(tmp_path: Path) -> None:
    project = Project(tmp_path)
    asking = FileLock(tmp_path / "work.lock")
    assert asking.acquire()
    timer = threading.Timer(0.15, asking.release)
    timer.start()
    with hold(project):
        pass
    timer.join()


def test_a_note_never_removes_what_is_no_part_of_a_backup(tmp_path: Path) -> None:
    project = Project(tmp_path / "stack")
    for name in ("documents", ".documents", "saved.partial"):
        folder = tmp_path / name
        folder.mkdir()
        note_stop(project, folder, [])
        assert clear_stop(project) == CutOff(folder, ())
        assert folder.is_dir()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.binary(max_size=80) | st.sampled_from([b"[]", b'{"partial": 1}', b'{"containers": []}', b"null"]))
def test_any_note_can_be_read(tmp_path: Path, data: bytes) -> None:
    project = Project(tmp_path)
    (tmp_path / NOTE).write_bytes(data)
    assert read_stop(project) is None
    assert clear_stop(project) is None
    assert not (tmp_path / NOTE).exists()


def test_a_home_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "stack").write_text("a file")
    with pytest.raises(RfctlError) as caught, hold(Project(tmp_path / "stack")):
        pass
    assert caught.value.id == "stack.unwritable"


def test_executors_are_held_only_where_there_are_some(tmp_path: Path) -> None:
    project = Project(tmp_path)
    held = write_lock(project, {"ragflow": "r:1@sha256:0", "mysql": "m:1"})
    assert held == {"ragflow": "r:1@sha256:0", "mysql": "m:1", "executor": "r:1@sha256:0"}
    assert lock_files(project, executors=False) == [project.lock_file]
    assert "executor" not in json.loads(project.lock_file.read_text("utf-8"))["services"]
    assert lock_files(project, executors=True) == [project.lock_file, project.executor_lock_file]
    # One's own RAGFlow image is somewhere else: nothing is known of executors.
    assert write_lock(project, {"mysql": "m:1"}) == {"mysql": "m:1"}
    assert lock_files(project, executors=True) == [project.lock_file]
    assert (remove_lock(project), remove_lock(project)) == (True, False)
