"""Damaged model files: the values that torch.load reads, or a LorsError."""

import io
import struct
import warnings
import zipfile

import pytest
import safetensors.torch
import torch

from lors.checkpoint.reader import Checkpoint
from lors.errors import LorsError
from tests.fuzz.mutate import mutated_bytes, seeds
from tests.unit.checkpoint_files import write

CENTRAL = struct.Struct("<4s6H3L5H2L")
"""Entry of a zip directory up to its name: 8, 9 are the sizes, 7 the CRC, 16 the offset."""


def some_state(rng):
    torch.manual_seed(rng.random())
    count = rng.randint(2, 5)
    shapes = [(rng.randint(1, 4), rng.randint(1, 20)) for _ in range(count)]
    if rng.random() < 0.5:
        shapes = [shapes[0]] * count  # of one size, so that records can take each other's place
    return {f"layer.{number}.weight": torch.randn(shape) for number, shape in enumerate(shapes)}


def archive_of(rng, path, state):
    if rng.random() < 0.5:
        torch.save(state if rng.random() < 0.5 else {"model": state, "epoch": 3}, path)
    else:
        write(path, state)
    return path.read_bytes()


def directory_of(content):
    """Return the place of every entry in the directory of an archive, and its fields."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        place = archive.start_dir
    entries = []
    while content[place : place + 4] == b"PK\x01\x02":
        fields = list(CENTRAL.unpack_from(content, place))
        entries.append((place, fields))
        place += CENTRAL.size + fields[10] + fields[11] + fields[12]
    return entries


def changed_directory(rng, content):
    """Change an entry of the directory, or exchange parts of two entries."""
    content, entries = bytearray(content), directory_of(content)
    (place, fields), (other_place, other) = rng.sample(entries, 2)
    change = rng.choice(("offsets", "size", "both sizes", "method", "offset", "crc", "overlap"))
    if change == "offsets":
        fields[16], other[16] = other[16], fields[16]
    elif change == "size":
        fields[rng.choice((8, 9))] = rng.choice((0, 8, fields[8] // 2, fields[8] + 4, 2**32 - 1))
    elif change == "both sizes":
        fields[8] = fields[9] = rng.choice((0, 8, fields[8] // 2, fields[8] + 64))
    elif change == "method":
        fields[4] = 8
    elif change == "offset":
        fields[16] = max(0, fields[16] + rng.choice((-64, -1, 1, 4, 64)))
    elif change == "crc":
        fields[7] ^= 1 << rng.randrange(32)
    else:
        fields[16], fields[8], fields[9] = other[16], other[8], other[9]
    CENTRAL.pack_into(content, place, *fields)
    CENTRAL.pack_into(content, other_place, *other)
    return bytes(content)


def written_again(rng, content):
    """Write the records anew: some shorter, exchanged, left out, repeated, compressed or moved."""
    with zipfile.ZipFile(io.BytesIO(content)) as source:
        records = [
            [info.filename, source.read(info), zipfile.ZIP_STORED] for info in source.filelist
        ]
    values = [record for record in records if "/data/" in record[0]]
    one, other = rng.sample(values, 2)
    change = rng.choice(
        (
            "none",
            "cut",
            "longer",
            "exchange",
            "name",
            "left out",
            "twice",
            "deflate",
            "all",
            "order",
        )
    )
    if change == "cut":
        one[1] = one[1][: rng.choice((0, 8, len(one[1]) // 2))]
    elif change == "longer":
        one[1] += bytes(rng.randint(1, 64))
    elif change == "exchange":
        one[1], other[1] = other[1], one[1]
    elif change == "name":
        one[0] = one[0] + "0"
    elif change == "left out":
        records.remove(one)
    elif change == "twice":
        records.append([one[0], other[1], zipfile.ZIP_STORED])
    elif change == "deflate":
        one[2] = zipfile.ZIP_DEFLATED
    elif change == "all":
        for record in records:
            record[2] = zipfile.ZIP_DEFLATED
    elif change == "order":
        rng.shuffle(records)
    written = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(written, "w") as target:
        for name, values, method in records:
            target.writestr(name, values, method)
    return written.getvalue()


def bytes_in_records(rng, content):
    """Change values without their checksums."""
    content = bytearray(content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        info = rng.choice([info for info in archive.filelist if "/data/" in info.filename])
    lengths = struct.unpack_from("<2H", content, info.header_offset + 26)
    content[info.header_offset + 30 + sum(lengths) + rng.randrange(info.file_size)] ^= 0x40
    return bytes(content)


def around(rng, content):
    return rng.choice((b"x" * 64 + content, content + b"x" * 64, content + content))


CHANGES = (changed_directory, changed_directory, written_again, written_again)
CHANGES += (bytes_in_records, around, mutated_bytes)


def read(path):
    """Return the bytes of all tensors; None if the file is refused."""
    try:
        opened = Checkpoint.open(path)
        return {name: opened.tensor(name).numpy().tobytes() for name in opened.names()}
    except LorsError as error:
        assert str(path) in str(error)
        return None


def read_by_torch(path):
    try:
        content = torch.load(path, weights_only=True)
        content = content.get("model", content)
        return {name: tensor.numpy().tobytes() for name, tensor in content.items()}
    except Exception:
        return None


def test_damaged_archives(tmp_path, request):
    path = tmp_path / "m.pth"
    outcomes = {"read": 0, "refused": 0}
    for rng in seeds(request, 400):
        state = some_state(rng)
        whole = {name: tensor.numpy().tobytes() for name, tensor in state.items()}
        content = archive_of(rng, path, state)
        assert read(path) == whole
        path.write_bytes(rng.choice(CHANGES)(rng, content))
        found = read(path)
        assert found is None or found in (whole, read_by_torch(path))
        outcomes["refused" if found is None else "read"] += 1
    assert min(outcomes.values()) > 20


def test_damaged_safetensors(tmp_path, request):
    path = tmp_path / "m.safetensors"
    outcomes = {"read": 0, "refused": 0}
    for rng in seeds(request, 400):
        state = some_state(rng)
        content = safetensors.torch.save(state)
        length = int.from_bytes(content[:8], "little")
        # The values have no checksum in this format.
        header = mutated_bytes(rng, content[: 8 + length])
        path.write_bytes(header + content[8 + length :])
        found = read(path)
        outcomes["refused" if found is None else "read"] += 1
        if found is None or header == content[: 8 + length]:
            continue
        try:
            expected = safetensors.torch.load(path.read_bytes())
        except Exception as error:
            pytest.fail(f"the safetensors library refuses it: {error}")
        assert found == {name: tensor.numpy().tobytes() for name, tensor in expected.items()}
    assert outcomes["refused"] > 20
