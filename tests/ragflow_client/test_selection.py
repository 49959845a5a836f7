"""Which files a folder, a pattern and a name stand for."""

from __future__ import annotations

from pathlib import Path

import pytest

from rfctl.core.error import UsageError
from rfctl.ragflow_client.selection import select_files


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        "a.txt", "B.PDF", "read.md", "sub/read.md", "sub/deep/c.html", "picture.png", "noext", ".hidden.txt",
        ".git/config.txt", "~$a.docx", "._a.txt",
    ):  # fmt: skip
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "tree" / "loop").symlink_to(tmp_path / "tree", target_is_directory=True)
    (tmp_path / "tree" / "broken.txt").symlink_to(tmp_path / "nothing")
    return tmp_path / "tree"


def test_a_folder_gives_its_documents_and_counts_the_rest(tree: Path) -> None:
    selection = select_files([tree])
    assert sorted(selection.names.values()) == ["B.PDF", "a.txt", "c.html", "read.md", "sub - read.md"]
    assert selection.folders == (tree,)
    assert selection.skipped == {"hidden": 4, "type": 2, "link": 2}


def test_a_named_file_is_always_taken_and_only_once(tree: Path) -> None:
    selection = select_files(
        [tree / ".hidden.txt", tree / "picture.png", tree, tree / "a.txt", tree / "gone"]
    )
    assert list(selection.names.values())[:2] == [".hidden.txt", "picture.png"]
    assert len(selection.names) == 8
    assert tree / "gone" in selection.names


def test_a_pattern_is_expanded(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    assert list(select_files([Path("**/*.md")]).files) == [tree / "read.md", tree / "sub" / "read.md"]
    assert select_files([Path("*.txt")]).files == (tree / "a.txt",)
    (tree / "odd[1].txt").write_text("a name that looks like a pattern")
    assert select_files([Path("odd[1].txt")]).files == (tree / "odd[1].txt",)
    with pytest.raises(UsageError, match=r"upload\.pattern-empty"):
        select_files([Path("*.nothing")])


def test_a_folder_without_documents_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"upload\.folder-empty"):
        select_files([tmp_path])
