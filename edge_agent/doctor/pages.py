"""Rows of a damaged SQLite file, read from its bytes: what SQLite itself refuses to read.

    file = pages; a table = a tree of them from its root page: interior (0x05) ▶ leaves (0x0D)
    write-ahead log = newer versions of pages, valid up to its last whole transaction

A leaf that no intact page leads to is still found, as an orphan. Format:
https://www.sqlite.org/fileformat2.html
"""

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_MAGIC = b"SQLite format 3\x00"
_INTERIOR, _LEAF = 0x05, 0x0D
_DEFAULT_PAGE = 4096
_WAL_HEADER, _FRAME_HEADER = 32, 24
_LARGEST_ROW = 1 << 30

Row = tuple[Any, ...]


class Damage(Exception):
    """These bytes are not what the format asks for."""


@dataclass
class Found:
    """What was found of one table."""

    rows: dict[int, Row] = field(default_factory=dict)
    """By rowid; an INTEGER PRIMARY KEY column is None in the row."""
    whole: bool = True
    """No page or row of the tree was damaged."""


class PageFile:
    """The pages of the database at `path`, with its write-ahead log applied. Close it."""

    def __init__(self, path: Path) -> None:
        self._data = _mapped(path)
        self.page_size = _page_size(self._data)
        self._log = _mapped(path.with_name(path.name + "-wal"))
        self._newer = _frames(self._log, self.page_size)
        self.count = max([len(self._data) // self.page_size, *self._newer])
        self._seen: set[int] = set()

    def close(self) -> None:
        """Let the files go."""
        for mapping in (self._data, self._log):
            if isinstance(mapping, mmap.mmap):
                mapping.close()

    def table(self, root: int) -> Found:
        """All rows that can be reached from page `root`."""
        found, pending, mine = Found(), [root], set[int]()
        while pending:
            number = pending.pop()
            if number in mine or not 1 <= number <= self.count:
                found.whole = False
                continue
            mine.add(number)
            try:
                page, start = self._page(number), 100 if number == 1 else 0
                kind, cells = page[start], struct.unpack_from(">H", page, start + 3)[0]
                if kind == _INTERIOR:
                    pending.append(struct.unpack_from(">I", page, start + 8)[0])
                    places = _pointers(page, start + 12, cells)
                    pending.extend(struct.unpack_from(">I", page, place)[0] for place in places)
                elif kind == _LEAF:
                    found.whole &= self._read_leaf(page, start, found.rows)
                else:
                    found.whole = False
            except (Damage, struct.error, IndexError):
                found.whole = False
        self._seen |= mine
        return found

    def orphans(self) -> Iterator[dict[int, Row]]:
        """Rows of leaves that no `table` call came by, one page at a time."""
        for number in range(2, self.count + 1):
            if number in self._seen:
                continue
            rows: dict[int, Row] = {}
            try:
                page = self._page(number)
                if page[0] == _LEAF:
                    self._read_leaf(page, 0, rows)
            except (Damage, struct.error, IndexError):
                pass
            if rows:
                yield rows

    def _page(self, number: int) -> bytes:
        if number in self._newer:
            place = self._newer[number]
            return bytes(self._log[place : place + self.page_size])
        page = bytes(self._data[(number - 1) * self.page_size : number * self.page_size])
        if len(page) < self.page_size:
            raise Damage
        return page

    def _read_leaf(self, page: bytes, start: int, rows: dict[int, Row]) -> bool:
        """Add the rows of a leaf; False if one of them cannot be read."""
        whole = True
        (cells,) = struct.unpack_from(">H", page, start + 3)
        for place in _pointers(page, start + 8, cells):
            try:
                size, at = _varint(page, place)
                rowid, at = _varint(page, at)
                rows[_signed(rowid)] = _record(self._payload(page, at, size))
            except (Damage, struct.error, IndexError, UnicodeDecodeError):
                whole = False
        return whole

    def _payload(self, page: bytes, at: int, size: int) -> bytes:
        """A row's bytes, those on overflow pages too."""
        usable = self.page_size
        if size > min(_LARGEST_ROW, usable * self.count):
            raise Damage
        if size <= usable - 35:
            return _exactly(page[at : at + size], size)
        least = (usable - 12) * 32 // 255 - 23
        local = least + (size - least) % (usable - 4)
        local = local if local <= usable - 35 else least
        parts, missing = [_exactly(page[at : at + local], local)], size - local
        (following,) = struct.unpack_from(">I", page, at + local)
        while missing > 0:
            if not 1 <= following <= self.count:
                raise Damage
            overflow = self._page(following)
            if not any(overflow):  # never written, or zeroed: no text of ours is all NUL
                raise Damage
            (following,) = struct.unpack_from(">I", overflow, 0)
            parts.append(overflow[4 : 4 + missing])
            missing -= usable - 4
        return b"".join(parts)


def _mapped(path: Path) -> "mmap.mmap | bytes":
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (FileNotFoundError, ValueError):  # an empty file cannot be mapped
        return b""


def _page_size(data: "mmap.mmap | bytes") -> int:
    if bytes(data[:16]) != _MAGIC:
        return _DEFAULT_PAGE
    (size,) = struct.unpack_from(">H", data, 16)
    size = 65536 if size == 1 else size
    return size if size >= 512 and size & (size - 1) == 0 else _DEFAULT_PAGE


def _frames(log: "mmap.mmap | bytes", page_size: int) -> dict[int, int]:
    """Page number → offset of its newest version in the write-ahead log."""
    if len(log) < _WAL_HEADER:
        return {}
    magic, _, size = struct.unpack_from(">III", log, 0)
    if magic not in (0x377F0682, 0x377F0683) or size != page_size:
        return {}
    order = ">" if magic & 1 else "<"
    salts, sums = log[16:24], _checksum(log[:24], (0, 0), order)
    if struct.pack(">II", *sums) != log[24:32]:
        return {}
    committed: dict[int, int] = {}
    open_: dict[int, int] = {}
    place = _WAL_HEADER
    while place + _FRAME_HEADER + page_size <= len(log):
        header = log[place : place + _FRAME_HEADER]
        page = place + _FRAME_HEADER
        number, pages_after = struct.unpack_from(">II", header, 0)
        sums = _checksum(header[:8] + log[page : page + page_size], sums, order)
        if header[8:16] != salts or struct.pack(">II", *sums) != header[16:24]:
            break
        open_[number] = page
        if pages_after:
            committed |= open_
            open_ = {}
        place = page + page_size
    return committed


def _checksum(data: bytes, sums: tuple[int, int], order: str) -> tuple[int, int]:
    first, second = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for place in range(0, len(words), 2):
        first = (first + words[place] + second) & 0xFFFFFFFF
        second = (second + words[place + 1] + first) & 0xFFFFFFFF
    return first, second


def _pointers(page: bytes, start: int, cells: int) -> tuple[int, ...]:
    if start + 2 * cells > len(page):
        raise Damage
    return struct.unpack_from(f">{cells}H", page, start)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where the next one begins."""
    value = 0
    for place in range(8):
        byte = data[at + place]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + place + 1
    return value << 8 | data[at + 8], at + 9


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _record(payload: bytes) -> Row:
    """Values of a row: their types stand in front, and must use up its bytes exactly."""
    header, at = _varint(payload, 0)
    if header > len(payload):
        raise Damage
    values, body = [], header
    while at < header:
        kind, at = _varint(payload, at)
        size = _size(kind)
        values.append(_value(kind, _exactly(payload[body : body + size], size)))
        body += size
    if at != header or body != len(payload):
        raise Damage
    return tuple(values)


def _size(kind: int) -> int:
    if kind in (10, 11):
        raise Damage
    return (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)[kind] if kind < 10 else (kind - 12) // 2


def _value(kind: int, data: bytes) -> Any:
    if kind == 0:
        return None
    if kind <= 6:
        return int.from_bytes(data, "big", signed=True)
    if kind == 7:
        return struct.unpack(">d", data)[0]
    if kind <= 9:
        return kind - 8
    return data.decode() if kind & 1 else data


def _exactly(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise Damage
    return data
