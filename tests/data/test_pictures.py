"""Sizes in headers of all kinds, and pictures that are refused before they are decoded."""

import contextlib
import struct
import zlib

import cv2
import numpy as np
import pytest

from pyscratchdet.cli import main
from pyscratchdet.data.images import decode_at_least, decode_image
from pyscratchdet.data.picture_size import picture_size
from pyscratchdet.errors import DataError, FileError, PyScratchDetError

KINDS = ("jpg", "png", "bmp", "gif", "webp", "tiff", "jp2", "ppm", "pgm", "pbm", "pam", "pfm", "hdr", "sr", "avif")


def encoded(kind: str, height: int, width: int) -> bytes:
    image = np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)
    if kind in ("pgm", "pbm"):
        image = image[..., 0]
    if kind in ("pfm", "hdr"):
        image = image.astype(np.float32)
    try:
        done, data = cv2.imencode(f".{kind}", image)
    except cv2.error:
        done = False
    if not done:
        pytest.skip(f"this OpenCV writes no {kind}")
    return bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_those_of_the_decoder(kind):
    for height, width in ((37, 52), (300, 211)):
        data = encoded(kind, height, width)
        assert picture_size(data) == (height, width)
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert decoded.shape[:2] == (height, width)


def test_lossless_webp():
    image = np.random.default_rng(7).integers(0, 256, (61, 47, 4), np.uint8)
    data = bytes(cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, 101])[1])
    assert picture_size(data) == (61, 47)


def huge_png(side: int) -> bytes:
    """All black, so that some hundred kilobytes tell gigabytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(b"\0" * (1 + side // 8)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def with_size(kind: str) -> bytes:
    """A small picture that claims to have 20,000 x 20,000 pixels."""
    data, place = bytearray(encoded(kind, 37, 52)), {"bmp": 18, "gif": 6, "sr": 4}.get(kind)
    if kind in ("ppm", "pgm"):
        return bytes(data).replace(b"52 37", b"20000 20000")
    assert place is not None
    form = {"bmp": "<ii", "gif": "<HH", "sr": ">II"}[kind]
    struct.pack_into(form, data, place, 20_000, 20_000)
    return bytes(data)


@pytest.mark.parametrize("kind", ["png", "bmp", "gif", "sr", "ppm"])
def test_pictures_that_would_become_gigabytes(kind):
    data = huge_png(20_000) if kind == "png" else with_size(kind)
    assert picture_size(data) == (20_000, 20_000)
    with pytest.raises(FileError, match=r"huge: \d+ bytes that would become 1144 MiB") as caught:
        decode_image(data, name="huge")
    assert caught.value.code == "file.unpacked"


def test_the_limit_can_be_raised(monkeypatch):
    data = huge_png(12_000)
    with pytest.raises(FileError, match="PYSCRATCHDET_MAX_UNPACKED_MIB"):
        decode_image(data, color=False)
    monkeypatch.setenv("PYSCRATCHDET_MAX_UNPACKED_MIB", "500")
    assert decode_image(data, color=False).shape == (12_000, 12_000, 1)


def test_lmdb_refuses_such_a_picture(tmp_path, capsys):
    (tmp_path / "huge.png").write_bytes(huge_png(20_000))
    (tmp_path / "list.txt").write_text("huge.png 3\n")
    assert main(["lmdb", f"{tmp_path}/", f"{tmp_path}/list.txt", f"{tmp_path}/db"]) == 2
    told = capsys.readouterr().err
    assert "file.unpacked" in told
    assert f"{tmp_path}/list.txt:1" in told


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_headers(kind):
    """200 pictures each with bytes of their header changed."""
    random, data = np.random.default_rng(11), encoded(kind, 37, 52)
    for _ in range(200):
        values = bytearray(data)
        for _ in range(int(random.integers(1, 4))):
            values[int(random.integers(min(len(values), 200)))] = int(random.integers(256))
        with contextlib.suppress(PyScratchDetError):
            assert decode_image(bytes(values)).ndim == 3


def test_a_png_whose_chunks_reach_beyond_the_file_is_refused():
    """OpenCV reserves the length that a chunk claims: gigabytes for a file of a hundred bytes."""
    data = cv2.imencode(".png", np.arange(9 * 7, dtype=np.uint8).reshape(9, 7))[1].tobytes()
    assert decode_image(data, color=False).shape == (9, 7, 1)
    assert decode_image(data + b"behind the end", color=False).shape == (9, 7, 1)
    place = data.index(b"IDAT") - 4
    long = data[:place] + b"\x7f\xff\xff\x00" + data[place + 4 :]
    for damaged in (long, data[:-1], data[:-12], data[:place]):
        with pytest.raises(DataError, match="p is a truncated or damaged PNG"):
            decode_image(damaged, name="p")


def turned(data: bytes, orientation: int) -> bytes:
    """A JPEG that says it is to be turned."""
    tag = struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 0x112, 3, 1, orientation, 0, 0)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", 8 + len(tag)) + b"Exif\0\0" + tag + data[2:]


@pytest.mark.parametrize(
    ("size", "least", "reduction"),
    [
        ((401, 203), (25, 20), 8),
        ((401, 203), (30, 20), 4),
        ((401, 203), (80, 100), 2),  # the input may be turned as well
        ((401, 203), (80, 102), 1),
        ((401, 405), (50, 50), 4),  # an eighth would be square
        ((400, 400), (50, 50), 8),
    ],
)
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_reduced_decoding(size, least, reduction, orientation):
    image = np.zeros((*size, 3), np.uint8)
    image[: size[0] // 2, : size[1] // 4] = 255
    data = turned(bytes(cv2.imencode(".jpg", image)[1]), orientation)
    whole = decode_image(data)
    found, found_size = decode_at_least(data, "picture", least)
    assert found_size == whole.shape[:2]
    assert found.shape[:2] == tuple(-(-side // reduction) for side in whole.shape[:2])
    assert found.shape[0] >= min(least)
    like = cv2.resize(whole, found.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(found.astype(int) - like).mean() < 3  # of 255, at the patch's border
    assert np.array_equal(decode_at_least(data, "picture")[0], whole)


def test_only_jpegs_are_decoded_reduced():
    image = np.random.default_rng(7).integers(0, 256, (96, 80, 3), np.uint8)
    found, size = decode_at_least(bytes(cv2.imencode(".png", image)[1]), "picture", (8, 8))
    assert np.array_equal(found, image)
    assert size == (96, 80)
    with pytest.raises(DataError, match="truncated"):
        decode_at_least(bytes(cv2.imencode(".jpg", image)[1])[:-2], "picture", (8, 8))
