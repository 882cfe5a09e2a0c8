"""Checkpoints made to harm: pickles that call functions, tensors that lie, archives that unpack to much."""

import functools
import io
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import torch
from damage import Random

# Functions that a hostile pickle calls, and their arguments; {canary} is a file that must never appear.
CALLS: list[tuple[str, str, tuple[str, ...]]] = [
    ("os", "system", ("touch {canary}",)),
    ("posix", "system", ("touch {canary}",)),
    ("subprocess", "getoutput", ("touch {canary}",)),
    ("subprocess", "check_call", ("{canary}",)),
    ("builtins", "eval", ("open('{canary}', 'w').close()",)),
    ("builtins", "exec", ("open('{canary}', 'w').close()",)),
    ("builtins", "open", ("{canary}", "w")),
    ("builtins", "getattr", ("os", "system")),
    ("builtins", "__import__", ("antigravity",)),
    ("__builtin__", "eval", ("open('{canary}', 'w').close()",)),
    ("os", "mkdir", ("{canary}",)),
    ("os", "open", ("{canary}", "65")),
    ("pathlib", "Path.touch", ("{canary}",)),
    ("importlib", "import_module", ("this",)),
    ("runpy", "run_path", ("{canary}",)),
    ("pickle", "loads", ("cos\nsystem\n(S'touch {canary}'\ntR.",)),
    ("torch", "load", ("{canary}",)),
    ("torch.serialization", "load", ("{canary}",)),
    ("torch.hub", "load", ("{canary}", "model")),
    ("numpy", "load", ("{canary}",)),
    ("numpy.testing._private.utils", "runstring", ("open('{canary}', 'w').close()", "{}")),
    ("argparse", "FileType", ("w",)),
    ("argparse", "_sys.exit", ("1",)),
    ("functools", "partial", ("print",)),
    ("operator", "methodcaller", ("system", "touch {canary}")),
    ("timm.models._helpers", "load_checkpoint", ("{canary}",)),
    ("lightning.pytorch.utilities.migration", "pl_legacy_patch", ()),
    ("localvit.system.files", "write_text", ("{canary}", "x")),
]


def hostile_pickle(canary: str, random: Random) -> bytes:
    """A pickle that calls a function, by one of the opcodes that can."""
    module, name, texts = CALLS[int(random.integers(len(CALLS)))]
    arguments = b"".join(_text(text.replace("{canary}", canary)) for text in texts)
    found = f"c{module}\n{name}\n".encode()
    match int(random.integers(6)):
        case 0:
            body = found + b"(" + arguments + b"tR"
        case 1:  # the name comes from the stack
            body = _text(module) + _text(name) + b"\x93(" + arguments + b"tR"
        case 2:
            body = b"(" + arguments + f"i{module}\n{name}\n".encode()
        case 3:
            body = b"(" + found + arguments + b"o"
        case 4:
            body = found + b"(" + arguments + b"t\x81"
        case _:  # a state for an object that is allowed
            body = b"cargparse\nNamespace\n)R" + found + b"(" + arguments + b"tRb"
    protocol = b"\x80" + bytes([int(random.integers(2, 6))]) if random.random() < 0.8 else b""
    return protocol + (b"}" + _text("model") + body + b"s." if random.random() < 0.5 else body + b".")


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def in_archive(whole: bytes, pickled: bytes, random: Random) -> bytes:
    """A checkpoint of torch with another pickle in it."""
    return _rewritten(whole, lambda name, content: pickled if name.endswith("data.pkl") else content)


def _rewritten(whole: bytes, change: Callable[[str, bytes], bytes], *, packed: bool = False) -> bytes:
    written = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(io.BytesIO(whole)) as before, zipfile.ZipFile(written, "w", kind) as after:
        for name in before.namelist():
            after.writestr(name, change(name, before.read(name)))
    return written.getvalue()


def with_damaged_pickle(whole: bytes, canary: str, random: Random) -> bytes:
    """A checkpoint of torch in whose pickle some opcodes are others."""

    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("data.pkl"):
            return content
        bad = bytearray(content)
        for _ in range(int(random.integers(1, 6))):
            bad[int(random.integers(len(bad)))] = int(random.integers(256))
        return bytes(bad)

    return _rewritten(whole, change)


def packed_archive(whole: bytes, canary: str, random: Random) -> bytes:
    """A checkpoint of torch whose records are compressed; one of them is zeros that unpack to 2 GiB."""
    return _packed(whole, "data.pkl" if random.random() < 0.3 else "/data/0")


@functools.cache
def _packed(whole: bytes, bomb: str) -> bytes:
    written = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(whole)) as before,
        zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as after,
    ):
        for name in before.namelist():
            with after.open(name, "w", force_zip64=True) as file:
                if not name.endswith(bomb):
                    file.write(before.read(name))
                    continue
                for _ in range(2**31 >> 24):
                    file.write(bytes(2**24))
    return written.getvalue()


def odd_tensors(canary: str, random: Random) -> dict[Any, Any]:
    """A state dict of tensors that no checkpoint has."""
    value = torch.ones(4, 4)
    odd: list[Any] = [
        value.to_sparse(),
        value.to_sparse_csr(),
        torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
        value.to(torch.complex64),
        value.to("meta"),
        torch.zeros(1).expand(2**40),
        torch.zeros(1).expand(2**20, 2**20),
        torch.nested.nested_tensor([value, value[:2]]),
        value.to(torch.float8_e4m3fn),
        value.to(torch.bool),
        torch.tensor(float("nan")),
        torch.zeros(0, 5),
        value.to(torch.uint16),
        value.requires_grad_(),
        torch.nn.Parameter(value.detach()),
        value.detach().T,
        [value],
        None,
        bytearray(9),
    ]
    keys: list[Any] = [
        "head.weight",
        "head.bias",
        "pos_embed",
        "",
        "\ud800",
        7,
        None,
        ("a",),
        "blocks.0.attn.qkv.weight",
    ]
    chosen = random.integers(len(odd), size=int(random.integers(1, 4)))
    return {keys[int(random.integers(len(keys)))]: odd[int(index)] for index in chosen}
