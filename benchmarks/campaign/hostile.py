"""Files that someone made to harm: pickles and YAML that call functions, JSON of other types, headers that lie."""

import functools
import io
import json
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import torch
from damage import Random, extreme

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


ODD_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "x", "\0", "\ud800", "../../etc/passwd", "9" * 5000, "localvit_tiny_patch16_224", "a" * 100_000),
    *([], {}, [[]], [None], ["x"], [1, 2, 3], {"": 0}, {"x": {"y": []}}, [0] * 10_000),
]


def with_odd_values(content: Any, random: Random) -> Any:
    """JSON in which some values are others, are missing, or stand elsewhere."""
    content = json.loads(json.dumps(content))
    for _ in range(int(random.integers(1, 4))):
        places = list(_places(content))
        if not places:
            break
        parent, key = places[int(random.integers(len(places)))]
        other_parent, other_key = places[int(random.integers(len(places)))]
        odd = ODD_VALUES[int(random.integers(len(ODD_VALUES)))]
        match int(random.integers(6)):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[["no_such_field", "", "class_path", "__class__", "init_args"][int(random.integers(5))]] = odd
            case 2:
                parent[key] = json.loads(json.dumps(other_parent[other_key]))
            case 3 if type(parent[key]) in (int, float):
                parent[key] = extreme(4, abs(int(min(1e9, abs(parent[key])))), [], random) * int(random.choice((1, -1)))
            case _:
                parent[key] = odd
    return content


def _places(content: Any) -> Any:
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(items):
        yield content, key
        yield from _places(value)


def odd_json(content: Any, random: Random) -> str:
    """The text of damaged JSON, or text that is hardly JSON."""
    match int(random.integers(12)):
        case 0:
            depth = int(random.integers(100, 200_000))
            return "[" * depth + "]" * int(random.integers(depth + 1))
        case 1:
            return '{"a":' * int(random.integers(100, 100_000)) + "1"
        case 2:
            return ["", "null", "[]", "{}", "0", '"x"', "NaN", "\ufeff{}", "[1,", "9" * 5000][int(random.integers(10))]
    return json.dumps(with_odd_values(content, random))


_YAML_TAGS = [
    "!!python/object/apply:os.system ['touch {canary}']",
    "!!python/object/new:os.system ['touch {canary}']",
    "!!python/object:subprocess.Popen {{args: [touch, '{canary}']}}",
    "!!python/name:os.system",
    "!!python/module:antigravity",
    "!!python/tuple [1, 2]",
    "!!python/object/apply:builtins.eval [\"open('{canary}', 'w')\"]",
    "!!binary '////'",
    "!!set {{a, b}}",
    "!!timestamp 2021-04-05",
    "!!int 'x'",
    "!!float .nan",
    "!include {canary}",
    "${{oc.env:HOME}}",
    "{{class_path: os.system, init_args: {{command: 'touch {canary}'}}}}",
    "{{class_path: subprocess.Popen, init_args: {{args: [touch, '{canary}']}}}}",
    "&loop [*loop]",
    "2021-04-05",
    "0x" + "f" * 400,
    "1e999",
    "190:20:30",
    "'\\ud800'",
    "@{canary}",
]
_LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


def odd_yaml(text: str, canary: str, random: Random) -> str:
    """A recipe or study with tags that call functions, aliases that grow, or damaged lines."""
    lines = text.splitlines()
    match int(random.integers(8)):
        case 0:
            return _LAUGHS + text
        case 1:
            return text + "\nmodel: &m {arguments: {" + _LAUGHS.replace("\n", ", ").replace("a11:", "last:") + "}}\n"
        case 2:
            depth = int(random.integers(10, 20_000))
            return text + "\nextra: " + "[" * depth + "]" * depth
        case 3:
            return text + "\n" + "\n".join(" " * n + f"k{n}:" for n in range(int(random.integers(10, 400))))
        case 4:
            place = int(random.integers(len(lines)))
            return "\n".join([*lines[:place], *lines[place + 1 :]])
    places = [place for place, line in enumerate(lines) if ": " in line] or [0]
    for _ in range(int(random.integers(1, 3))):
        place = places[int(random.integers(len(places)))]
        tag = _YAML_TAGS[int(random.integers(len(_YAML_TAGS)))].format(canary=canary)
        lines[place] = f"{lines[place].partition(':')[0]}: {tag}"
    return "\n".join(lines)


def odd_safetensors(whole: bytes, random: Random) -> bytes:
    """Safetensors whose header has other lengths, offsets, types, or descriptions."""
    length = int.from_bytes(whole[:8], "little")
    header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    keys = [key for key in header if key != "__metadata__"]
    key = keys[int(random.integers(len(keys)))]
    match int(random.integers(7)):
        case 0:
            return extreme(8, length, [100_000_000, 100_000_001, len(whole)], random).to_bytes(8, "little") + whole[8:]
        case 1:
            dtypes = [
                "F64",
                "F32",
                "F16",
                "BF16",
                "I64",
                "U64",
                "BOOL",
                "F8_E5M2",
                "F8_E8M0",
                "F4",
                "C64",
                "F6_E2M3",
                "x",
            ]
            header[key]["dtype"] = dtypes[int(random.integers(len(dtypes)))]
        case 2:
            header[key]["data_offsets"] = [extreme(8, at, [0, len(data)], random) for at in header[key]["data_offsets"]]
        case 3:
            header[key]["shape"] = [extreme(6, side, [], random) for side in header[key]["shape"]]
        case 4:
            header[f"{key}.twin" if random.random() < 0.5 else "\ud800"] = header[key]
        case 5:
            header = with_odd_values(header, random)
        case _:  # the texts of our own metadata are JSON in JSON
            metadata = header["__metadata__"]
            name = list(metadata)[int(random.integers(len(metadata)))]
            try:
                metadata[name] = odd_json(json.loads(metadata[name]), random)
            except ValueError:
                metadata[name] = "x"
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data
