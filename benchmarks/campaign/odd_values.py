"""JSON, YAML and safetensors with other values in them: other types, tags that call functions, headers that lie."""

import copy
import json
from typing import Any

from damage import Random, extreme

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
        odd = copy.deepcopy(ODD_VALUES[int(random.integers(len(ODD_VALUES)))])
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
