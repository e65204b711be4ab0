"""Files are written whole or not at all."""

import io
import os
import subprocess
import sys

import pytest

from sb3_pg_extras.common.files import atomic_write, open_to_save


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


def test_permissions_are_those_of_the_file_that_was_there_or_of_any_new_file(tmp_path):
    (tmp_path / "any").touch()
    for name, mode in (("new", (tmp_path / "any").stat().st_mode), ("private", None)):
        path = tmp_path / name
        if mode is None:
            path.touch()
            path.chmod(0o640)
            mode = path.stat().st_mode
        with atomic_write(path) as file:
            file.write(b"content")
        assert path.stat().st_mode == mode


def test_the_process_keeps_its_umask_throughout(tmp_path, monkeypatch):
    """It belongs to all threads."""
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask was changed"))
    with atomic_write(tmp_path / "x") as file:
        file.write(b"content")


WRITER = """
import sys, time
from sb3_pg_extras.common.files import atomic_write
with atomic_write(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_writer_left_behind_is_removed_and_a_living_one_is_left_alone(tmp_path):
    path = tmp_path / "x[1].zip"
    killed, living = (subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) for _ in range(2))
    for process in (killed, living):
        assert process.stdout.readline() == b"writing\n"
    killed.kill()
    killed.wait()
    assert len(list(tmp_path.iterdir())) == 2
    with atomic_write(path) as file:
        file.write(b"whole")
    assert path.read_bytes() == b"whole"
    assert len(list(tmp_path.iterdir())) == 2  # the file, and what the other still writes
    living.kill()
    living.wait()
    with atomic_write(path) as file:
        file.write(b"again")
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_in_the_way_and_a_file_object_are_saved_to_as_in_sb3(tmp_path):
    (tmp_path / "model.zip").mkdir()
    with (
        pytest.warns(UserWarning, match="is a folder. Will save instead to"),
        open_to_save(tmp_path / "model", ".zip") as file,
    ):
        file.write(b"content")
    assert (tmp_path / "model.zip_2").read_bytes() == b"content"
    memory = io.BytesIO()
    with open_to_save(memory, ".zip") as file:
        assert file is memory


def test_the_content_is_on_the_disk_before_it_takes_the_place_of_the_old(tmp_path, monkeypatch):
    """Else a power cut may leave an empty file under the name."""
    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(
        os,
        "fsync",
        lambda fd: (done.append(("sync", os.fstat(fd.fileno() if hasattr(fd, "fileno") else fd).st_size)), fsync(fd)),
    )
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("replace"), replace(*paths)))
    with atomic_write(tmp_path / "x") as file:
        file.write(b"content")
    assert done == [("sync", 7), "replace"]
