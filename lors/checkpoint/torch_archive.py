"""The zip archive in a file of ``torch.save``: where its records lie, checked before they are read.

torch maps the file into memory and takes the place of every record from the archive's directory,
without checking either. A damaged directory would therefore give the bytes of other records.
"""

from __future__ import annotations

import mmap
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor
from zlib_ng import zlib_ng

PICKLE_BYTES = 32 * 2**20
"""Largest size of the pickled part, which has no values: 100 times that of a Whisper-large."""
_LOCAL_HEADER, _DESCRIPTOR = b"PK\x03\x04", b"PK\x07\x08"
_HAS_DESCRIPTOR, _ENCRYPTED = 0x08, 0x01
_IN_EXTRA_FIELD = 0xFFFFFFFF
"""A size in a header that is too large for it and stands in another field."""


class BadArchive(Exception):
    """The archive is damaged, or of a kind that torch.save does not write."""


class PackedArchive(BadArchive):
    """The archive is compressed or encrypted."""


@dataclass(frozen=True)
class Record:
    """One record of an archive.

    Attributes:
        start: place of its first byte in the file.
        size: number of its bytes.
        crc: CRC-32 of its bytes, as recorded in the archive.
    """

    start: int
    size: int
    crc: int


def read_archive(path: Path) -> tuple[dict[str, Record], bytes]:
    """Check the structure of an archive; return the records of tensors, and the pickled part.

    Every record must be stored uncompressed, under the same name, size and checksum in the
    directory and beside its bytes, and directly behind the record before it.

    Returns:
        Key of a storage -> its record; and the content of ``data.pkl``, whose checksum is checked.

    Raises:
        BadArchive: the archive has another structure.
        zipfile.BadZipFile, OSError: the directory cannot be read.
    """
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
        records: dict[str, Record] = {}
        end = 0
        for entry in entries:
            if entry.header_offset != end:
                raise BadArchive(f"{entry.filename} begins at {entry.header_offset}, not at {end}")
            if entry.filename in records:
                raise BadArchive(f"two records are called {entry.filename}")
            start, end = _check_entry(file, entry)
            records[entry.filename] = Record(start, entry.file_size, entry.CRC)
        if end != archive.start_dir:
            raise BadArchive(f"the records end at {end}, the directory begins elsewhere")
        root = entries[0].filename.split("/")[0] if entries else ""
        if any(not name.startswith(f"{root}/") for name in records):
            raise BadArchive("the records are not in one folder")
        if f"{root}/data.pkl" not in records:
            raise BadArchive(f"there is no record {root}/data.pkl")
        if records[f"{root}/data.pkl"].size > PICKLE_BYTES:
            raise BadArchive(f"data.pkl has more than {PICKLE_BYTES} bytes")
        order = f"{root}/byteorder"
        if order in records and archive.read(order) != b"little":
            raise BadArchive("the values are not little-endian")
        pickled = archive.read(f"{root}/data.pkl")
    folder = f"{root}/data/"
    storages = {n.removeprefix(folder): r for n, r in records.items() if n.startswith(folder)}
    return storages, pickled


def _check_entry(file: IO[bytes], entry: zipfile.ZipInfo) -> tuple[int, int]:
    """Compare an entry of the directory with the header of its record.

    Returns:
        The place of the first byte of the record, and the place behind the record.
    """
    name = entry.filename
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & _ENCRYPTED:
        raise PackedArchive(f"{name} is compressed or encrypted")
    if entry.compress_size != entry.file_size:
        raise BadArchive(f"{name} has sizes {entry.compress_size} and {entry.file_size}")
    file.seek(entry.header_offset)
    header = file.read(30)
    fields = [int.from_bytes(header[at : at + size], "little") for at, size in _HEADER_FIELDS]
    flags, method, crc, packed, size, length, extra = fields
    found = file.read(length).decode("utf-8" if flags & 0x800 else "cp437", "replace")
    described = bool(flags & _HAS_DESCRIPTOR)
    known = {entry.file_size, _IN_EXTRA_FIELD} | ({0} if described else set())
    if (
        header[:4] != _LOCAL_HEADER
        or (found, flags, method) != (name, entry.flag_bits, zipfile.ZIP_STORED)
        or not {packed, size} <= known
        or crc not in {entry.CRC, *([0] if described else [])}
    ):
        raise BadArchive(f"the header of {name} differs from the directory of the archive")
    start = entry.header_offset + 30 + length + extra
    end = start + entry.file_size
    if described:
        end += _check_descriptor(file, entry, end)
    return start, end


_HEADER_FIELDS = ((6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2))
"""Offset and size of flags, method, CRC, both sizes, and the lengths of name and extra field."""


def _check_descriptor(file: IO[bytes], entry: zipfile.ZipInfo, at: int) -> int:
    """Compare an entry with the checksum and sizes behind its record; return their length."""
    file.seek(at)
    found = file.read(24)
    for width in (4, 8):
        size = entry.file_size
        if size < 2 ** (8 * width):
            sizes = size.to_bytes(width, "little") * 2
            expected = _DESCRIPTOR + entry.CRC.to_bytes(4, "little") + sizes
            if found.startswith(expected):
                return len(expected)
    raise BadArchive(f"{entry.filename} has another size or checksum than in the directory")


def checksum(storage: torch.UntypedStorage) -> int:
    """Return the CRC-32 of a storage's bytes.

    zlib-ng needs 0.04 CPU s for each GB, as much as the fingerprint: 3 % of a merge by a sum
    (utils/bench/RESULTS.md). zlib itself needs 0.24 s.
    """
    return zlib_ng.crc32(torch.empty(0, dtype=torch.uint8).set_(storage).numpy())


def records_of_storages(
    tensors: Iterable[Tensor], records: Mapping[str, Record]
) -> dict[int, Record]:
    """Find the record of every storage of memory-mapped tensors.

    A storage must cover exactly one record; torch itself would map any range of the file.

    Args:
        tensors: from ``torch.load(path, mmap=True)``.
        records: of the same file.

    Returns:
        Address of a storage in memory -> its record; empty storages are left out.

    Raises:
        BadArchive: a storage is larger or smaller than its record.
    """
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}
    storages = {address: size for address, size in storages.items() if size}
    of_size: dict[int, list[int]] = {}
    for record in records.values():
        of_size.setdefault(record.size, []).append(record.start)
    by_start = {record.start: record for record in records.values() if record.size}
    if not storages:
        return {}
    # torch does not tell where it mapped the file. All storages must agree on one place, the start
    # of a page. The rarest size leaves the fewest places to try, and a wrong place is most often
    # seen at the first or last address.
    rarest = min(storages, key=lambda address: len(of_size.get(storages[address], ())))
    addresses = sorted(storages)
    addresses.insert(0, addresses[-1])
    for start in of_size.get(storages[rarest], ()):
        origin = rarest - start
        if origin % mmap.PAGESIZE == 0 and all(
            address - origin in by_start and by_start[address - origin].size == storages[address]
            for address in addresses
        ):
            return {address: by_start[address - origin] for address in storages}
    raise BadArchive("a tensor has another size than its record in the archive")
