"""What a folder of images may hold besides images: links, pipes, folders, strange names, files that change."""

import contextlib
import io
import os
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from damage import Random

_SECONDS_BETWEEN_CHANGES = 0.0005


class Odd(NamedTuple):
    """Something odd in a folder.

    Attributes:
        predicted: number of images that predicting the folder finds in it.
        listed: number of images that training finds in it; unlike prediction, it follows links to folders.
        sound: whether these are sound images, so that each must be read.
    """

    predicted: int
    listed: int
    sound: bool = False


def _empty(folder: Path, image: bytes, random: Random) -> Odd:
    (folder / "empty.jpg").touch()
    return Odd(1, 1)


def _no_image(folder: Path, image: bytes, random: Random) -> Odd:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("photo.jpg", image)
    contents = [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch canary) (w) file\n",
        b"%PDF-1.7\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        packed.getvalue(),
        b"P",
        b"\xff\xd8\xff",
        b"P6 0 7 255 ",
        b"P3 3 3 255 " + b"1 " * int(random.integers(1000)),
        b"P6 99999 9999 255\n" + bytes(99),
        b"\0" * int(random.integers(1, 100_000)),
        random.bytes(int(random.integers(1, 10_000))),
    ]
    (folder / "no.jpg").write_bytes(contents[int(random.integers(len(contents)))])
    return Odd(1, 1)


def _long_file(folder: Path, image: bytes, random: Random) -> Odd:
    """Zeros to the end, which take no room on disk; they may belong to a chunk."""
    path = folder / "long.png"
    lengths = (2**27, 460 * 2**20, 2**31 - 1)
    chunk = (
        lengths[int(random.integers(3))].to_bytes(4, "big")
        + [b"iCCP", b"tEXt", b"eXIf", b"IDAT"][int(random.integers(4))]
    )
    path.write_bytes(image if image[:4] != b"\x89PNG" else image[:33] + chunk)
    os.truncate(path, int(random.choice((2**28, 470 * 2**20, 2**29, 940 * 2**20, 2**30, 5 * 2**30))))
    return Odd(1, 1)


def _wrong_ending(folder: Path, image: bytes, random: Random) -> Odd:
    endings = ["jpg", "JPEG", "png", "Webp", "gif", "tif", "tiff", "bmp", "ppm", "jp2", "avif"]
    (folder / f"photo.{endings[int(random.integers(len(endings)))]}").write_bytes(image)
    return Odd(1, 1, sound=True)


def _hidden(folder: Path, image: bytes, random: Random) -> Odd:
    (folder / "._photo.jpg").write_bytes(b"Mac OS X        ")
    (folder / ".photo.jpg").write_bytes(image)
    return Odd(0, 0)


def _strange_name(folder: Path, image: bytes, random: Random) -> Odd:
    names = [
        b"two\nlines.jpg",
        b"\x1b[31mred\x1b]0;title\x07.jpg",
        b"caf\xe9.jpg",
        b"\xff\xfe\x80.png",
        "sur\udcff\u202egpj.jpg".encode(errors="surrogateescape"),
        b" .jpg",
        b"-top.jpg",
        b"[red]a[bold].jpg",
        "\u00e9\u0301\U0001f600\u00b2\u0663.jpg".encode(),
        b"9" * 240 + b".jpg",
        b"a,b\"c';$(touch canary)`touch canary`.jpg",
        b"\r\t\x7f\xc2\x85\xe2\x80\xa8.jpg",
        random.bytes(40).translate(None, b"/\0") + b"x.jpg",
    ]
    name = names[int(random.integers(len(names)))]
    name = b"x" + name if name.startswith(b".") else name
    sound = bool(random.random() < 0.5)
    (folder / os.fsdecode(name)).write_bytes(image if sound else image[: len(image) // 3])
    return Odd(1, 1, sound)


def _strange_folder(folder: Path, image: bytes, random: Random) -> Odd:
    below = folder / os.fsdecode([b"caf\xe9", b"a\nb", b"\x1b[2J", b"x.jpg"][int(random.integers(4))]) / "deep.png"
    below.mkdir(parents=True)
    (below / "photo.jpg").write_bytes(image)
    return Odd(1, 1, sound=True)


def _link_to_itself(folder: Path, image: bytes, random: Random) -> Odd:
    (folder / "one.jpg").symlink_to("one.jpg")
    return Odd(1, 1)


def _links_in_a_circle(folder: Path, image: bytes, random: Random) -> Odd:
    (folder / "one.jpg").symlink_to("two.jpg")
    (folder / "two.jpg").symlink_to("one.jpg")
    return Odd(2, 2)


def _dangling_link(folder: Path, image: bytes, random: Random) -> Odd:
    (folder / "gone.jpg").symlink_to("nowhere/photo.jpg")
    return Odd(1, 1)


def _link_to_image(folder: Path, image: bytes, random: Random) -> Odd:
    (folder / ".kept").write_bytes(image)
    (folder / "link.jpg").symlink_to(folder / ".kept")
    return Odd(1, 1, sound=True)


def _folders_in_a_circle(folder: Path, image: bytes, random: Random) -> Odd:
    (folder / "above.jpg").symlink_to(folder)
    return Odd(0, 0)


def _link_to_folder(folder: Path, image: bytes, random: Random) -> Odd:
    (folder / ".kept").mkdir()
    (folder / ".kept" / "photo.jpg").write_bytes(image)
    (folder / "link").symlink_to(folder / ".kept")
    return Odd(0, 1, sound=True)


def _folder_with_an_ending(folder: Path, image: bytes, random: Random) -> Odd:
    (folder / "folder.jpg").mkdir()
    return Odd(0, 0)


def _pipe(folder: Path, image: bytes, random: Random) -> Odd:
    os.mkfifo(folder / "pipe.jpg")
    return Odd(1, 1)


def _socket(folder: Path, image: bytes, random: Random) -> Odd:
    here = Path.cwd()
    os.chdir(folder)  # a socket's path may have 107 bytes
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("socket.jpg")
    os.chdir(here)
    return Odd(1, 1)


def _device(folder: Path, image: bytes, random: Random) -> Odd:
    targets = ["/dev/zero", "/dev/urandom", "/dev/null", "/proc/self/mem", "/proc/self/maps", "/proc/1/environ"]
    (folder / "device.jpg").symlink_to(targets[int(random.integers(len(targets)))])
    return Odd(1, 1)


ODD: dict[str, Callable[[Path, bytes, Random], Odd]] = {
    "empty file": _empty,
    "no image": _no_image,
    "long file": _long_file,
    "wrong ending": _wrong_ending,
    "hidden file": _hidden,
    "strange name": _strange_name,
    "strange name of a folder": _strange_folder,
    "link to itself": _link_to_itself,
    "links in a circle": _links_in_a_circle,
    "dangling link": _dangling_link,
    "link to an image": _link_to_image,
    "folders in a circle": _folders_in_a_circle,
    "link to a folder": _link_to_folder,
    "folder with the ending of an image": _folder_with_an_ending,
    "pipe": _pipe,
    "socket": _socket,
    "device": _device,
}


@contextlib.contextmanager
def changing(path: Path, image: bytes, random: Random) -> Iterator[None]:
    """Shorten, grow, remove, restore and replace a file again and again while the block runs."""
    changes: list[Callable[[], object]] = [
        lambda: path.write_bytes(image),
        lambda: path.write_bytes(image[: len(image) // 2]),
        lambda: path.write_bytes(b""),
        lambda: os.truncate(path, 7),
        path.unlink,
        path.mkdir,
        path.rmdir,
        lambda: os.mkfifo(path),
        lambda: path.symlink_to(path.name),
    ]
    order = [changes[int(index)] for index in random.integers(len(changes), size=64)]
    stopped = threading.Event()

    def change() -> None:
        while not stopped.is_set():
            for step in order:
                with contextlib.suppress(OSError):
                    # Writing to a pipe waits for a reader.
                    if path.is_fifo():
                        path.unlink()
                    step()
                if stopped.wait(_SECONDS_BETWEEN_CHANGES):
                    break

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
