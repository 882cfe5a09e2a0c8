"""Files that are replaced at once, by processes that may be killed at any moment."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from localvit.system import files
from localvit.system.files import replacing, working_folder, write_text

WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])  # importing the package would load PyTorch
from files import replacing
with replacing(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    sys.stdin.read()
"""
IN_A_FOLDER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from files import working_folder
path = Path(sys.argv[1])
with working_folder(path.parent, path.name) as folder:
    (folder / "weights").write_text("half")
    print("writing", flush=True)
    sys.stdin.read()
    (folder / "weights").replace(path)
"""


def a_writer(path: Path, code: str = WRITER) -> "subprocess.Popen[str]":
    """A process that has written half of a file, and goes on when its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path), str(Path(files.__file__).parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_process_has_left_is_removed_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "a[1].txt"
    write_text(path, "old")
    for _ in range(3):
        process = a_writer(path)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert path.read_text() == "old"
    assert len(names(tmp_path)) == 2  # each writer has removed the one before
    write_text(path, "new")
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a[1].txt"]


def test_what_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    process = a_writer(path)
    write_text(path, "mine")
    assert path.read_text() == "mine"
    process.communicate("")
    assert process.returncode == 0
    assert path.read_text() == "half"
    assert names(tmp_path) == ["a.txt"]


def test_a_working_folder_of_a_killed_process_is_removed_and_one_in_use_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a[1].xml"
    killed = a_writer(path, IN_A_FOLDER)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert len(names(tmp_path)) == 1
    other = a_writer(path, IN_A_FOLDER)
    assert len(names(tmp_path)) == 1
    with working_folder(tmp_path, path.name) as folder:
        (folder / "below").mkdir()
        assert len(names(tmp_path)) == 2
    assert len(names(tmp_path)) == 1
    other.communicate("")
    assert other.returncode == 0
    assert path.read_text() == "half"
    assert names(tmp_path) == [path.name]


def test_many_writers_of_one_file_leave_one_of_their_contents(tmp_path: Path) -> None:
    path, errors = tmp_path / "a.txt", list[BaseException]()

    def write(content: str) -> None:
        try:
            for _ in range(50):
                write_text(path, content)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(letter * 1000,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert path.read_text() in [letter * 1000 for letter in "abcd"]
    assert names(tmp_path) == ["a.txt"]


def test_a_write_that_fails_leaves_the_old_content_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def write_half() -> None:
        with replacing(path) as file:
            file.write(b"new")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_half()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]
