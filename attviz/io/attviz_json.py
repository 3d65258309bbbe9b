"""The AttViz JSON: files of the original tool (arXiv:2005.05716), read with every rule checked, and written for it.

    [ { "name"?: str, "text": str,
        "output_activations": [ { "name"?: str, "value": str | number } ],
        "hilight"?: { "block": int, "vectors": int },
        "sets": [ { "name"?: str, "visible"?: bool, "tokens": [str],
                    "attention_vectors": [ { "name"?: str | int, "color"?: "#rrggbb", "visible"?: bool,
                                             "vectors": [str | number] } ] } ] } ]

An older form has an object with the keys "0", "1", ... at the root. ``hilight`` is the original's spelling.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from attviz.errors import FormatError
from attviz.files import replacing_text
from attviz.io.json_stream import root_entries
from attviz.records import AttvizDocument, AttvizSet, AttvizVector

_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")  # linear: no two parts can take the same digit
_LONGEST_NUMBER = 400
_COLOR = re.compile(r"#[0-9a-fA-F]{1,6}")
_ROUNDING = 1e-6  # a softmax in float32 may end a little above 1
_KNOWN = {"name", "text", "output_activations", "hilight", "sets"}


def read_attviz_json(path: str | os.PathLike[str], *, max_bytes: int = 1 << 30) -> tuple[AttvizDocument, ...]:
    """Read a file of the AttViz tool.

    Args:
        path: The file.
        max_bytes: Refuse larger files.

    Returns:
        Its documents. Values are rounded to float32; those outside [0, 1] by no more than rounding are set to the bound. Colours are
        ``#rrggbb``.

    Raises:
        FormatError: If the file breaks a rule; the message names the place in the file, such as
            ``[3].sets[0].attention_vectors[2].vectors[17]``.
        OSError: If it cannot be read.
    """
    path = Path(path)
    listed: list[AttvizDocument] = []
    keyed: dict[int, AttvizDocument] = {}
    for key, entry in root_entries(path, max_bytes=max_bytes):
        try:
            if key is None:
                listed.append(_document(entry, f"[{len(listed)}]"))
            else:
                index = _index(key)
                keyed[index] = _document(entry, f"['{index}']")
        except FormatError as error:
            raise FormatError(f"{path}: {error}") from error
    return (*listed, *(keyed[index] for index in sorted(keyed)))


def parse_attviz(root: Any) -> tuple[AttvizDocument, ...]:
    """Documents of a parsed AttViz JSON.

    Raises:
        FormatError: If a rule is broken; the message names the place.
    """
    if isinstance(root, dict):
        return tuple(_document(root[key], f"[{key!r}]") for key in sorted(root, key=_index))
    if not isinstance(root, list):
        raise FormatError(f"the root must be a list of documents, got {_kind(root)}.")
    return tuple(_document(entry, f"[{place}]") for place, entry in enumerate(root))


def write_attviz_json(documents: Iterable[AttvizDocument], path: str | os.PathLike[str]) -> Path:
    """Write documents for the AttViz tool; reading them back returns bit-identical float32 values.

    Args:
        documents: Consumed one at a time, so that memory holds one; for an analysis: :func:`attviz.io.attviz_documents`.
        path: Replaced once the new file is complete.

    Returns:
        The path.

    Raises:
        FormatError: If a document breaks a rule of the format.
        OSError: If the file cannot be written.
    """
    before = "[\n"
    with replacing_text(path) as file:
        for place, document in enumerate(documents):
            plain = _plain(document)
            _document(plain, f"[{place}]")  # what we write is what we would read
            file.write(before + json.dumps(plain))
            before = ",\n"
        file.write("[]\n" if before == "[\n" else "\n]\n")
    return Path(path)


def _index(key: str) -> int:
    if not (key.isascii() and key.isdecimal() and len(key) <= 18):
        raise FormatError(
            f"the root is an object, so its keys must be '0', '1', ...; got {key[:60]!r}. Is it one document without its list?"
        )
    return int(key)


def _document(entry: Any, at: str) -> AttvizDocument:
    _expect(entry, dict, at)
    activations = _optional(entry, "output_activations", list, at) or []
    return AttvizDocument(
        text=_required(entry, "text", str, at),
        sets=tuple(_set(one, f"{at}.sets[{n}]") for n, one in enumerate(_optional(entry, "sets", list, at) or [])),
        name=_optional(entry, "name", str, at),
        activations=tuple(_activation(one, f"{at}.output_activations[{n}]") for n, one in enumerate(activations)),
        highlight=_highlight(entry.get("hilight"), f"{at}.hilight"),
        extra={name: value for name, value in entry.items() if name not in _KNOWN},
    )


def _set(entry: Any, at: str) -> AttvizSet:
    _expect(entry, dict, at)
    tokens = _required(entry, "tokens", list, at)
    for place, token in enumerate(tokens):
        _expect(token, str, f"{at}.tokens[{place}]")
    vectors = _optional(entry, "attention_vectors", list, at) or []
    return AttvizSet(
        tokens=tuple(tokens),
        vectors=tuple(_vector(one, f"{at}.attention_vectors[{n}]", len(tokens)) for n, one in enumerate(vectors)),
        name=_optional(entry, "name", str, at),
        visible=_visible(entry, at),
    )


def _vector(entry: Any, at: str, num_tokens: int) -> AttvizVector:
    _expect(entry, dict, at)
    values = _required(entry, "vectors", list, at)
    if len(values) != num_tokens:
        raise FormatError(f"{at}.vectors: must have one value per token, but has {len(values)} values for {num_tokens} tokens.")
    name = entry.get("name")
    if name is not None and (isinstance(name, bool) or not isinstance(name, (str, int))):
        raise FormatError(f"{at}.name: must be a string or a whole number, got {_kind(name)}.")
    numbers = tuple(_probability(value, f"{at}.vectors[{place}]") for place, value in enumerate(values))
    return AttvizVector(numbers, name, _color(_optional(entry, "color", str, at), f"{at}.color"), _visible(entry, at))


def _probability(value: Any, at: str) -> float:
    number = _number(value, at)
    if not -_ROUNDING <= number <= 1 + _ROUNDING:
        raise FormatError(f"{at}: must be from 0 to 1, got {value!r}.")
    if number <= 0 or number >= 1:  # one object for all of these: a file can hold a hundred million
        return 0.0 if number <= 0 else 1.0
    return float(np.float32(number))


def _number(value: Any, at: str) -> float:
    if isinstance(value, str) and len(value) <= _LONGEST_NUMBER and _NUMBER.fullmatch(value.strip()):
        number = float(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value) if abs(value) < 1e300 else math.inf
    else:
        raise FormatError(f"{at}: not a number: {value[:60]!r}" if isinstance(value, str) else f"{at}: not a number but {_kind(value)}.")
    if not math.isfinite(number):
        raise FormatError(f"{at}: must be finite, got {value!r}.")
    return number


def _activation(entry: Any, at: str) -> tuple[str | None, str | float]:
    _expect(entry, dict, at)
    if "value" not in entry:
        raise FormatError(f"{at}.value: is missing.")
    value = entry["value"]
    _number(value, f"{at}.value")
    return _optional(entry, "name", str, at), value


def _highlight(entry: Any, at: str) -> tuple[int, int] | None:
    if entry is None:
        return None
    _expect(entry, dict, at)
    block, vectors = _required(entry, "block", int, at), _required(entry, "vectors", int, at)
    return block, vectors


def _color(color: str | None, at: str) -> str | None:
    """Six digits: three are doubled, as browsers do; other lengths lack leading zeros, which the original's random colours did."""
    if color is None:
        return None
    if not _COLOR.fullmatch(color):
        raise FormatError(f"{at}: must be like '#0072b2', got {color!r}.")
    digits = color[1:].lower()
    return "#" + ("".join(digit * 2 for digit in digits) if len(digits) == 3 else digits.zfill(6))


def _visible(entry: dict[str, Any], at: str) -> bool:
    visible = _optional(entry, "visible", bool, at)
    return True if visible is None else bool(visible)


def _required(entry: dict[str, Any], key: str, kind: type, at: str) -> Any:
    if key not in entry:
        raise FormatError(f"{at}.{key}: is missing.")
    _expect(entry[key], kind, f"{at}.{key}")
    return entry[key]


def _optional(entry: dict[str, Any], key: str, kind: type, at: str) -> Any:
    if entry.get(key) is not None:
        _expect(entry[key], kind, f"{at}.{key}")
    return entry.get(key)


def _expect(value: Any, kind: type, at: str) -> None:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise FormatError(f"{at}: must be {_NAMES[kind]}, got {_kind(value)}.")


_NAMES: dict[type, str] = {
    str: "a string",
    list: "a list",
    dict: "an object",
    int: "a whole number",
    bool: "true or false",
    float: "a number",
    type(None): "null",
}


def _kind(value: Any) -> str:
    return _NAMES.get(type(value), type(value).__name__)


def _plain(document: AttvizDocument) -> dict[str, Any]:
    """A document as the original writes it: values as strings, only what is there."""
    named = {} if document.name is None else {"name": document.name}
    activations: list[dict[str, Any]] = [
        ({} if name is None else {"name": name}) | {"value": value} for name, value in document.activations
    ]
    highlight = {} if document.highlight is None else {"hilight": {"block": document.highlight[0], "vectors": document.highlight[1]}}
    sets = [_plain_set(one) for one in document.sets]
    return {**document.extra, **named, "text": document.text, "output_activations": activations, **highlight, "sets": sets}


def _plain_set(one: AttvizSet) -> dict[str, Any]:
    named = {} if one.name is None else {"name": one.name}
    vectors = [_plain_vector(vector) for vector in one.vectors]
    return {**named, **({} if one.visible else {"visible": False}), "tokens": list(one.tokens), "attention_vectors": vectors}


def _plain_vector(vector: AttvizVector) -> dict[str, Any]:
    optional = {"name": vector.name, "color": vector.color, "visible": None if vector.visible else False}
    values = [str(value) for value in np.asarray(vector.values, dtype=np.float32)]
    return {name: value for name, value in optional.items() if value is not None} | {"vectors": values}
