"""Files are written whole or not at all."""

import pytest

from sb3_pg_extras.common.files import atomic_write


def test_missing_folders_are_made(tmp_path):
    with atomic_write(tmp_path / "new" / "er" / "x") as file:
        file.write(b"content")
    assert (tmp_path / "new" / "er" / "x").read_bytes() == b"content"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def fail_half_way():
        with atomic_write(path) as file:
            file.write(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail_half_way()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_written_through_a_link_leaves_the_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "latest.zip"
    link.symlink_to(tmp_path / "elsewhere" / "model.zip")
    for content in (b"one", b"two"):
        with atomic_write(link) as file:
            file.write(content)
        assert link.is_symlink()
        assert (tmp_path / "elsewhere" / "model.zip").read_bytes() == content
