import numpy as np
import pytest

from lors.checkpoint.positions import BITMAP, GAPS, decode, encode, longest

SIZE = 100_003


def kept_at(density, size=SIZE):
    return np.random.default_rng(0).random(size) < density


@pytest.mark.parametrize("density", [0, 0.00001, 0.001, 0.01, 0.1, 0.12, 0.2, 0.5, 1])
def test_positions_come_back(density):
    kept = kept_at(density)
    kind, code = encode(kept)
    assert code.dtype == np.uint8 and len(code) <= longest(kind, SIZE)
    assert np.array_equal(decode(kind, code, SIZE), np.flatnonzero(kept))


@pytest.mark.parametrize("gap", [0, 1, 254, 255, 256, 509, 510, 511, 2000])
def test_gaps_around_the_largest_byte(gap):
    kept = np.zeros(SIZE, dtype=bool)
    kept[[gap, 2 * gap + 1, SIZE - 1]] = True
    kind, code = encode(kept)
    assert kind == GAPS and decode(kind, code, SIZE).tolist() == np.flatnonzero(kept).tolist()


@pytest.mark.parametrize("size", [1, 7, 8, 9])
def test_bitmaps_of_any_size(size):
    kind, code = encode(np.ones(size, dtype=bool))
    assert kind == (BITMAP if size > 1 else GAPS)
    assert decode(kind, code, size).tolist() == list(range(size))


@pytest.mark.parametrize(
    ("density", "kind", "bytes_an_entry"),
    [(0.05, GAPS, 1.01), (0.1, GAPS, 1.01), (0.2, BITMAP, 0.63)],
)
def test_the_smaller_code_is_taken(density, kind, bytes_an_entry):
    kept = kept_at(density)
    found, code = encode(kept)
    assert found == kind and len(code) < bytes_an_entry * kept.sum()


@pytest.mark.parametrize(
    ("kind", "code", "fact"),
    [
        (GAPS, [3, 255], "gap"),
        (GAPS, [9, 0, 0], "position 11"),
        (GAPS, [255, 0], "position 255"),
        (BITMAP, [1], "1 bytes"),
        (BITMAP, [1, 1, 0], "3 bytes"),
        (BITMAP, [0, 1], "beyond"),
    ],
)
def test_codes_that_do_not_fit_are_refused(kind, code, fact):
    with pytest.raises(ValueError, match=fact):
        decode(kind, np.array(code, dtype=np.uint8), 11)
