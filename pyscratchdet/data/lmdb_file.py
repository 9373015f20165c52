"""Reads LMDB files without LMDB's own code, which trusts every page and crashes on a damaged one.

The layout is that of lmdb's mdb.c (0.9): first two meta pages, of which the newer counts. From its root, branch pages
lead to leaf pages, whose nodes hold a key and either the value or the number of the first of its overflow pages. Every
number is checked against the file before it is followed, and pages are read, not mapped, so that a file that shrinks in
the meantime is an error too. To list the keys, only the pages of the tree are read, not the values.
"""

from __future__ import annotations

import os
import struct
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from pyscratchdet.errors import DataError, counted

_HEADER = struct.Struct("<QHHHH")  # page number, padding, flags, end of the node offsets, start of the nodes
_META = struct.Struct("<IIQQ")  # magic, version, address, map size; then two trees
_TREE = struct.Struct("<IHHQQQQQ")  # padding, flags, depth, branch, leaf and overflow pages, entries, root
_NODE = struct.Struct("<HHHH")  # low and high half of a size, or of a page number; flags; size of the key
_MAGIC, _VERSIONS = 0xBEEFC0DE, (1, 999)
_BRANCH, _LEAF, _OVERFLOW, _IS_META = 0x01, 0x02, 0x04, 0x08
_ON_OVERFLOW_PAGES, _OTHER_NODES = 0x01, 0x06
# Several values per key (DUPSORT and the like) are stored in other ways; Caffe never writes them.
_DUPLICATES = 0x04 | 0x10 | 0x20 | 0x40
_NO_ROOT = 2**64 - 1
# mdb.c's own limits: CURSOR_STACK, MAX_PAGESIZE.
_MAX_DEPTH, _MAX_PAGE = 32, 0x10000


class _Tree(NamedTuple):
    depth: int
    entries: int
    root: int


@dataclass(frozen=True)
class _Meta:
    """A meta page: the trees of free pages and of records, the last page in use, and the number of the transaction."""

    page_size: int
    free: _Tree
    main: _Tree
    last_page: int
    transaction: int
    has_duplicates: bool


class _Record(NamedTuple):
    """A key, and where its value lies: an offset in the file, with the number of a page that it must be on, or 0."""

    key: bytes
    offset: int
    size: int
    page: int


class LmdbFile:
    """One open LMDB, read only. Safe to share between threads and to use after a fork.

    Args:
        path: Its folder.

    Raises:
        DataError: It is not an LMDB, or is damaged.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._file = os.open(os.path.join(path, "data.mdb"), os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._file)
            self._size = os.fstat(self._file).st_size
        except OSError as error:
            raise DataError(f"cannot read the LMDB {path}: {error.strerror}", code="data.database") from error
        self._meta = self._newest_meta()
        self._records: list[_Record] | None = None
        if self._is_short:
            # Free pages at the end may never have been written, so only the tree shows whether any page is missing.
            self._records = list(self._all(self._meta.main))

    @property
    def keys(self) -> list[bytes]:
        """All keys in order.

        Raises:
            DataError: A page of the tree is damaged, or a record lies beyond the end of the file.
        """
        return [record.key for record in self._listed]

    def value(self, index: int) -> bytes:
        """Returns the bytes of a record.

        Raises:
            DataError: They are not where the tree says.
        """
        return self._value(self._listed[index])

    def first(self) -> tuple[bytes, bytes] | None:
        """Returns the first key and its record, without reading the others; None if there are no records."""
        record = next(self._all(self._meta.main), None)
        return None if record is None else (record.key, self._value(record))

    def readers(self) -> Iterator[tuple[bytes, Callable[[], bytes]]]:
        """Yields each key in order with what reads its value; pages of the tree are read as they are needed.

        Raises:
            DataError: A page of the tree is damaged, or a record lies beyond the end of the file.
        """
        for record in self._all(self._meta.main):
            yield record.key, partial(self._value, record)

    def check(self) -> None:
        """Checks all pages of both trees, which a writer will follow.

        Raises:
            DataError: One is damaged.
        """
        for tree in (self._meta.free, self._meta.main):
            for _ in self._all(tree):
                pass

    @property
    def _listed(self) -> list[_Record]:
        if self._records is None:
            self._records = list(self._all(self._meta.main))
        return self._records

    @property
    def _is_short(self) -> bool:
        return self._size < (self._meta.last_page + 1) * self._meta.page_size

    def _newest_meta(self) -> _Meta:
        first = self._read_meta(0, 0)
        second = self._read_meta(first.page_size, 1)
        meta = second if second.transaction > first.transaction else first
        if meta.has_duplicates:
            raise self._fault("it keeps several values per key, which Caffe's databases never do")
        return meta

    def _read_meta(self, offset: int, number: int) -> _Meta:
        size = _HEADER.size + _META.size + 2 * _TREE.size + 16
        data = os.pread(self._file, size, offset)
        if len(data) < size:
            raise self._fault("it ends within its first pages: was it copied completely?")
        page, _, flags, _, _ = _HEADER.unpack_from(data)
        magic, version, _, _ = _META.unpack_from(data, _HEADER.size)
        if not flags & _IS_META or page != number or magic != _MAGIC or version not in _VERSIONS:
            raise DataError(f"not an LMDB: {self._path}", code="data.database",
                            found=f"no meta page at byte {offset}")  # fmt: skip
        start = _HEADER.size + _META.size
        free, main = (_TREE.unpack_from(data, start + k * _TREE.size) for k in range(2))
        page_size = free[0]
        if not 512 <= page_size <= _MAX_PAGE or page_size & (page_size - 1):
            raise self._fault(f"pages of {counted(page_size, 'byte')}")
        last_page, transaction = struct.unpack_from("<QQ", data, start + 2 * _TREE.size)
        free_tree, main_tree = (_Tree(tree[2], tree[6], tree[7]) for tree in (free, main))
        return _Meta(page_size, free_tree, main_tree, last_page, transaction, bool(main[1] & _DUPLICATES))

    def _all(self, tree: _Tree) -> Iterator[_Record]:
        """Yields the records of a tree in order."""
        count, seen = 0, set[int]()
        if tree.root != _NO_ROOT:
            # Pages still to be read, the next one last, each with its level.
            todo = [(tree.root, 1)]
            while todo:
                number, depth = todo.pop()
                if number in seen or depth > min(tree.depth, _MAX_DEPTH):
                    raise self._fault(f"page {number} is in the tree twice or too deep")
                seen.add(number)
                page, flags, nodes = self._page(number)
                if flags & _BRANCH:
                    todo += [(self._child(page, node), depth + 1) for node in reversed(nodes)]
                    continue
                if depth != tree.depth:
                    raise self._fault(f"leaf page {number} at level {depth} of {tree.depth}")
                for node in nodes:
                    yield self._record(page, number, node)
                count += len(nodes)
        if count != tree.entries:
            raise self._fault(f"its tree has {counted(count, 'record')}, its header says {tree.entries}")

    def _page(self, number: int) -> tuple[bytes, int, tuple[int, ...]]:
        """Returns the bytes of a page of a tree, its flags and the offsets of its nodes."""
        size = self._meta.page_size
        if not 2 <= number <= self._meta.last_page or (number + 1) * size > self._size:
            raise self._fault(f"page {number} is missing")
        page = os.pread(self._file, size, number * size)
        if len(page) < size:
            raise self._fault(f"page {number} is missing")
        own, _, flags, lower, upper = _HEADER.unpack_from(page)
        is_tree_page = flags in (_BRANCH, _LEAF)
        if own != number or not is_tree_page or not _HEADER.size <= lower <= upper <= size or lower % 2:
            raise self._fault(f"page {number} is not a page of its tree")
        count = (lower - _HEADER.size) // 2
        nodes = struct.unpack_from(f"<{count}H", page, _HEADER.size)
        if count < 1 or min(nodes) < upper or max(nodes) + _NODE.size > size:
            raise self._fault(f"page {number} has nodes outside the page")
        return page, flags, nodes

    def _child(self, page: bytes, node: int) -> int:
        low, high, top, _ = _NODE.unpack_from(page, node)
        return low | high << 16 | top << 32

    def _record(self, page: bytes, number: int, node: int) -> _Record:
        low, high, flags, key_size = _NODE.unpack_from(page, node)
        size, start = low | high << 16, node + _NODE.size
        data = start + key_size
        if flags & _OTHER_NODES:
            raise self._fault(f"page {number} has a node of the wrong kind")
        end = data + (8 if flags & _ON_OVERFLOW_PAGES else size)
        if end > len(page):
            raise self._fault(f"page {number} has a node that ends outside the page")
        key = page[start:data]
        if not flags & _ON_OVERFLOW_PAGES:
            return _Record(key, number * len(page) + data, size, 0)
        (first,) = struct.unpack_from("<Q", page, data)
        offset = first * len(page)
        if not 2 <= first <= self._meta.last_page or offset + _HEADER.size + size > self._size:
            raise self._fault(f"the record on page {first} is missing")
        return _Record(key, offset, size, first)

    def _value(self, record: _Record) -> bytes:
        head = _HEADER.size if record.page else 0
        data = os.pread(self._file, head + record.size, record.offset)
        is_right = len(data) == head + record.size
        if record.page and is_right:
            own, _, flags, _, _ = _HEADER.unpack_from(data)
            is_right = own == record.page and flags == _OVERFLOW
        if not is_right:
            raise self._fault(f"the record on page {record.page} is missing")
        return data[head:]

    def _fault(self, what: str) -> DataError:
        is_short = hasattr(self, "_meta") and self._is_short
        hint = "the file ends before its last page: was it copied completely?" if is_short else None
        return DataError(f"damaged LMDB {self._path}: {what}", code="data.database", hint=hint)
