"""Tables of Common Voice: the ways in which other readers lost or merged rows."""

from __future__ import annotations

import csv
import random

import pytest

from lors.data.datadir import one_line
from lors.data.tsv import read_tsv, split_row
from tests.refusal import refusal

COLUMNS = ("path", "sentence", "client_id")


def write(tmp_path, content):
    path = tmp_path / "validated.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_columns_are_found_by_name_in_old_and_new_releases(tmp_path):
    old = read_tsv(
        write(
            tmp_path,
            "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent\n"
            "c1\tx.mp3\tHallo\t2\t0\t\t\t\n",
        ),
        COLUMNS,
    )
    new = read_tsv(
        write(
            tmp_path,
            "client_id\tpath\tsentence_id\tsentence\tsentence_domain\tup_votes\tdown_votes\tage\t"
            "gender\taccents\tvariant\tlocale\tsegment\n"
            "c1\tx.mp3\tabc\tHallo\t\t2\t0\t\t\t\t\tde\t\n",
        ),
        COLUMNS,
    )
    reordered = read_tsv(write(tmp_path, "sentence\tclient_id\tpath\nHallo\tc1\tx.mp3\n"), COLUMNS)
    assert old.rows == new.rows == reordered.rows == [("x.mp3", "Hallo", "c1")]


def test_an_unbalanced_quote_swallows_no_row_and_no_word_means_missing(tmp_path):
    sentences = ['"Offen', "null", "NA", 'zu"', '"ganz"', "nan", "None", "-", "#N/A"]
    rows = "".join(f"c\t{i}.mp3\t{sentence}\n" for i, sentence in enumerate(sentences))
    table = read_tsv(write(tmp_path, "client_id\tpath\tsentence\n" + rows), COLUMNS)
    assert [row[1] for row in table.rows] == sentences
    assert table.lines == list(range(2, 2 + len(sentences)))
    assert table.malformed == []


def test_characters_that_some_readers_take_for_line_ends_do_not_end_a_row(tmp_path):
    sentence = "a\u2028b\x85c\x0bd\x0ce\x1cf"
    table = read_tsv(write(tmp_path, f"client_id\tpath\tsentence\nc\tx.mp3\t{sentence}\n"), COLUMNS)
    assert table.rows == [("x.mp3", sentence, "c")]
    assert one_line(sentence) == "a b c d e f"


def test_byte_order_mark_crlf_blank_lines_and_no_final_line_end(tmp_path):
    content = b"\xef\xbb\xbfclient_id\tpath\tsentence\r\nc\tx.mp3\tHallo\r\n\r\nd\ty.mp3\tWelt"
    table = read_tsv(write(tmp_path, content), COLUMNS)
    assert table.rows == [("x.mp3", "Hallo", "c"), ("y.mp3", "Welt", "d")]
    assert table.lines == [2, 4] and table.malformed == []


def test_a_missing_column_is_named_beside_the_columns_found(tmp_path):
    path = write(tmp_path, "client_id\tpath\ttext\nc\tx.mp3\tHallo\n")
    with refusal(path, "sentence", "client_id, path, text"):
        read_tsv(path, COLUMNS)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_file_without_header_is_refused(tmp_path, content):
    path = write(tmp_path, content)
    with refusal(path, *COLUMNS):
        read_tsv(path, COLUMNS)


def test_a_missing_file_is_refused(tmp_path):
    with refusal(tmp_path / "other.tsv"):
        read_tsv(tmp_path / "other.tsv", COLUMNS)


def test_rows_that_cannot_be_read_are_listed_and_cost_no_other_row(tmp_path):
    content = b"client_id\tpath\tsentence\nc\tx.mp3\nd\ty.mp3\tja\ne\tz.mp3\ta\tb\nf\tw\t\xff\n"
    table = read_tsv(write(tmp_path, content), COLUMNS)
    assert table.rows == [("y.mp3", "ja", "d")]
    assert table.malformed == [
        (2, "2 fields instead of 3"),
        (4, "4 fields instead of 3"),
        (5, "not UTF-8"),
    ]


def test_escapes_are_undone_as_the_csv_module_undoes_them():
    rng = random.Random(0)
    for _ in range(2000):
        line = "".join(rng.choices(['"', "\\", "\t", "ä", "n"], k=rng.randint(1, 8))) + "."
        expected = next(csv.reader([line], delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\"))
        assert split_row(line) == expected, repr(line)


def test_a_backslash_at_the_end_of_a_row_does_not_swallow_the_next(tmp_path):
    content = "client_id\tpath\tsentence\nc\tx.mp3\tso\\\nd\ty.mp3\tja\n"
    table = read_tsv(write(tmp_path, content), COLUMNS)
    assert table.rows == [("x.mp3", "so\\", "c"), ("y.mp3", "ja", "d")]


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        ("path\tpath\n", ["path"]),
        ("path\t" + "\t".join(f"c{n}" for n in range(100_000)) + "\n", ["100001", "1000"]),
        ("\t".join(f"c{n}" for n in range(900)) + "\n", ["path", "c0", "880 more"]),
        ("path,sentence\nx,y\n", ["path,sentence"]),
    ],
)
def test_headers_that_cannot_be_used(tmp_path, content, facts):
    path = write(tmp_path, content)
    with refusal(path, *facts) as refused:
        read_tsv(path, ("path",))
    assert len(str(refused.value)) < 2000


def test_a_header_that_is_not_utf8(tmp_path):
    path = write(tmp_path, "")
    path.write_bytes("path\tx\n".encode("utf-16"))
    with refusal(path, "0xff"):
        read_tsv(path, ("path",))


def test_a_row_of_countless_tabs_is_malformed(tmp_path):
    path = write(tmp_path, "path\tx\n" + "\t" * 1_000_000 + "\na\tb\n")
    table = read_tsv(path, ("path",))
    assert table.rows == [("a",)] and table.malformed == [(2, "1000000 tabs")]
