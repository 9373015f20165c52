"""Damage to files: by bytes for all of them, and by their structure where checksums or lengths would stop bytes early.

A mutation takes a file's content and a source of randomness, and returns other content; it is cheap, and never fails.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from random import Random

Mutation = Callable[[bytes, Random], bytes]

_EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
_WORDS = (
    *(
        "0",
        "-1",
        "1",
        "2147483648",
        "99999999999999999999",
        "1e999",
        "nan",
        "-inf",
        "0x7fffffff",
        "1e-46",
        "3.5",
        "true",
    ),
    *('""', "''", "null", "{", "}", "[", "]", "<", ">", ":", ",", '"', "\\", "#", "\x00", "\x1b[31m", "\ufeff", "\r"),
    *("../../../x", "/etc/passwd", "a" * 3000, "é", "\u202e", "<!--<script>", "%s%n", "&a;", " ", "\n", "\t"),
)
_TOKEN = re.compile(rb"\s+|[\w.+-]+|.", re.DOTALL)


def by_bytes(data: bytes, random: Random) -> bytes:
    """Changes bytes, cuts, doubles or leaves out a piece, or writes an extreme number."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        if not changed:
            return bytes(changed)
        place = random.randrange(len(changed))
        if random.random() < 0.6:  # beginnings are where the danger is, and in zip and HDF5 files ends
            place = place % 700 if random.random() < 0.6 else len(changed) - 1 - place % 700
            place = min(max(place, 0), len(changed) - 1)
        kind = random.randrange(7)
        if kind == 0:
            for _ in range(random.randrange(1, 9)):
                changed[(place + random.randrange(64)) % len(changed)] = random.randrange(256)
        elif kind == 1:
            changed[place] ^= 1 << random.randrange(8)
        elif kind == 2:
            del changed[place:]
        elif kind == 3:
            changed[place:place] = changed[place : place + random.randrange(1, 99)]
        elif kind == 4:
            del changed[place : place + random.randrange(1, 30)]
        elif kind == 5:
            size = random.choice((1, 2, 4, 8))
            number = random.choice(_EDGES) & (1 << 8 * size) - 1
            changed[place : place + size] = number.to_bytes(size, random.choice(("little", "big")))
        else:
            changed[place : place + 8] = bytes([random.choice((0, 255, 127))]) * 8
    return bytes(changed)


def text(data: bytes, random: Random) -> bytes:
    """Changes, repeats, leaves out or moves tokens and lines, or nests what is in brackets very deep."""
    tokens = _TOKEN.findall(data)
    for _ in range(random.choice((1, 1, 1, 4))):
        if not tokens:
            break
        place = random.randrange(len(tokens))
        kind = random.randrange(7)
        if kind == 0:
            tokens[place] = random.choice(_WORDS).encode()
        elif kind == 1:
            tokens.insert(place, random.choice(_WORDS).encode())
        elif kind == 2:
            del tokens[place : place + random.randrange(1, 6)]
        elif kind == 3:
            tokens[place:place] = tokens[place : place + random.randrange(1, 20)]
        elif kind == 4:
            tokens[place] = random.choice(tokens)
        elif kind == 5:
            tokens[place] = tokens[place] * random.choice((2, 40))
        else:
            opening, closing = random.choice(
                ((b"{", b"}"), (b"[", b"]"), (b"<a>", b"</a>"), (b"a {", b"}"), (b'{"a":', b"}"))
            )
            depth = random.choice((5, 101, 2000)) if random.random() < 0.97 else 60000
            tokens[place] = opening * depth + tokens[place] + closing * random.choice((0, depth))
    return b"".join(tokens)[: 1 << 18]


def protobuf(data: bytes, random: Random) -> bytes:
    """Changes a field somewhere in a message, and the lengths around it with it."""
    fields = _fields(data)
    if not fields:
        return by_bytes(data, random)
    index = random.randrange(len(fields))
    number, kind, payload = fields[index]
    action = random.randrange(8)
    if kind == 2 and payload and action < 4:
        fields[index] = (number, kind, protobuf(payload, random))
    elif action == 4:
        fields.insert(random.randrange(len(fields) + 1), fields[index])
    elif action == 5:
        del fields[index]
    elif action == 6:
        fields[index] = (random.choice((number, number + 1, 5, 7, 100, 2**29 - 1)), random.randrange(6), payload)
    elif kind == 0:
        fields[index] = (number, 0, _varint(random.choice(_EDGES)))
    elif kind == 2 and payload:  # a value in two pieces
        cut = random.randrange(len(payload))
        fields[index : index + 1] = [(number, 2, payload[:cut]), (number, 2, payload[cut:])]
    else:
        fields[index] = (number, kind, by_bytes(payload, random))
    return b"".join(_encoded(*field) for field in fields)


def _fields(data: bytes) -> list[tuple[int, int, bytes]]:
    """Returns (number, wire type, payload) of a message; none where the bytes are not one."""
    found, place = [], 0
    while place < len(data):
        tag, place = _read_varint(data, place)
        begin = place
        kind = tag & 7
        if kind == 0:
            _, place = _read_varint(data, place)
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        elif kind == 2:
            length, begin = _read_varint(data, place)
            place = begin + length
        else:
            return []
        if place > len(data) or not tag >> 3:
            return []
        found.append((tag >> 3, kind, data[begin:place]))
    return found


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            return 0, len(data) + 1
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    return value, place


def _varint(value: int) -> bytes:
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*result, value])


def _encoded(number: int, kind: int, payload: bytes) -> bytes:
    return _varint(number << 3 | kind) + (_varint(len(payload)) if kind == 2 else b"") + payload


def archive(data: bytes, random: Random) -> bytes:
    """Changes a member of a zip file (.npz, .pt) so that checksums fit, deflates it, renames it or leaves it out."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as source:
            members = [(info.filename, source.read(info)) for info in source.infolist()]
    except Exception:  # what zipfile and zlib make of damage
        return by_bytes(data, random)
    if not members:
        return by_bytes(data, random)
    index = random.randrange(len(members))
    name, content = members[index]
    action = random.randrange(8)
    if action < 4:
        members[index] = name, by_bytes(content, random)
    elif action == 4:
        name = random.choice(("../x.npy", "/x.npy", "", name.replace("data", "dat"), name * 100, "in:\x1b.npy"))
        members[index] = name, content
    elif action == 5:
        del members[index]
    elif action == 6:
        members.append((name, by_bytes(content, random)))
    else:  # what a header of numpy or torch may claim
        claimed = random.choice((b"(2, 3)", b"(200000000,)", b"(1, 1, 99999999999)", b"(-1,)", b"()"))
        members[index] = name, re.sub(rb"\([\d, ]*\)", claimed, content, count=1) + bytes(random.choice((0, 1 << 20)))
    result = io.BytesIO()
    method = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(result, "w", method, compresslevel=1) as target:
        for name, content in members:
            target.writestr(zipfile.ZipInfo(name or "x"), content, method)
    return result.getvalue()


def safetensors(data: bytes, random: Random) -> bytes:
    """Changes the header of a safetensors file, whose length then fits."""
    size = int.from_bytes(data[:8], "little")
    header = text(data[8 : 8 + size], random)
    length = random.choice((len(header), len(header), len(header), random.choice(_EDGES) & (1 << 64) - 1))
    return length.to_bytes(8, "little") + header + data[8 + size :]


def png(data: bytes, random: Random) -> bytes:
    """Changes a chunk of a PNG, with its checksum: the size, the kind of pixels, the compressed rows."""
    chunks, place = [], 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += length + 12
    if not chunks:
        return by_bytes(data, random)
    index = random.choice((0, random.randrange(len(chunks))))
    kind, content = chunks[index]
    action = random.randrange(6)
    if action < 2 and index == 0:
        sizes = (0, 1, 9, 300, 20000, 65535, 2**31 - 1)
        chunks[0] = kind, struct.pack(">II", random.choice(sizes), random.choice(sizes)) + content[8:]
    elif action == 2:
        chunks.append((kind, content))
    elif action == 3:
        del chunks[index]
    elif action == 4:
        chunks[index] = random.choice((b"IDAT", b"tRNS", b"PLTE", b"iCCP", b"eXIf", b"zTXt")), content
    else:
        chunks[index] = kind, by_bytes(content, random)
    pieces = [
        len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
        for kind, content in chunks
    ]
    return b"".join([data[:8], *pieces])


def jpeg(data: bytes, random: Random) -> bytes:
    """Changes a segment of a JPEG: the size, tables, Exif, or its place and length."""
    starts = [match.start() for match in re.finditer(rb"\xff[\xc0-\xfe]", data[: len(data) // 2 + 200])]
    if not starts:
        return by_bytes(data, random)
    place = random.choice(starts)
    action = random.randrange(5)
    frame = data.find(b"\xff\xc0")
    if action < 2 and frame >= 0:
        sizes = (0, 1, 7, 300, 30000, 65535)
        return data[: frame + 5] + struct.pack(">HH", random.choice(sizes), random.choice(sizes)) + data[frame + 9 :]
    if action == 2:
        return data[:place] + b"\xff" + bytes([random.randrange(0xC0, 0xFF)]) + data[place + 2 :]
    if action == 3:
        return data[: place + 2] + struct.pack(">H", random.choice((0, 1, 2, 3, 65535))) + data[place + 4 :]
    other = random.choice(starts)
    return data[:place] + data[other : other + random.randrange(2, 90)] + data[place:]


def lmdb(data: bytes, random: Random) -> bytes:
    """Changes what a page of an LMDB says of itself, or cuts the file at a page."""
    page = 4096
    changed = bytearray(data)
    number = random.randrange(max(len(data) // page, 1))
    action = random.randrange(6)
    if action == 0:
        return bytes(changed[: number * page + random.choice((0, 0, 1, 100, 2048))])
    if action == 1:
        other = random.randrange(max(len(data) // page, 1))
        changed[number * page : (number + 1) * page] = data[other * page : (other + 1) * page]
    elif action < 4:  # the head of a page: its number, flags, and where its free space is
        place = number * page + random.choice((0, 8, 10, 12, 14, 16, 18, 20, 24, 32, 40, 48, 64, 88, 120, 136, 144))
        size = random.choice((2, 4, 8))
        value = random.choice((*_EDGES, page, page - 2, 16, number, number + 1, len(data) // page))
        changed[place : place + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
    else:
        start = number * page
        changed[start : start + page] = by_bytes(data[start : start + page], random)[:page].ljust(page, b"\0")
    return bytes(changed)


def json_value(data: bytes, random: Random) -> bytes:
    """Puts another value in the place of one of a JSON, which stays valid."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return text(data, random)
    other = random.choice(
        (None, True, -1, 1e300, 10**30, "", "\x1b", "\ud800", [], {}, [[]], [1] * 5, {"id": []}, "NaN")
    )

    def replaced(item: object, depth: int) -> object:
        if depth == 0 or not isinstance(item, (dict, list)) or not item:
            return other
        if isinstance(item, list):
            index = random.randrange(len(item))
            return [*item[:index], replaced(item[index], depth - 1), *item[index + 1 :]]
        key = random.choice(list(item))
        if random.random() < 0.15:
            return {name: part for name, part in item.items() if name != key}
        return {**item, key: replaced(item[key], depth - 1)}

    return json.dumps(replaced(value, random.randrange(1, 5))).encode()
