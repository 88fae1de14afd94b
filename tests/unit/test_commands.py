"""Commands and stages on record, and files of them that are damaged."""

import pytest

from lors.bin import results
from lors.fileio import write_json
from lors.recipe import commands
from lors.recipe.commands import noted_commands, read_stages
from tests.refusal import refusal
from tests.unit.score_trees import make_scores, make_sweeps, put, put_stages
from tests.unit.test_page import run_of

TUNE, DATA = ("7 (tune)", 594, "./run.sh --nj 2"), ("1 (data)", 3, "./run.sh --langs 'de es'")


def names_of(expdir):
    return [run.name for run in read_stages(expdir)]


def test_earlier_versions_wrote_the_processor_of_each_core(tmp_path):
    path = put_stages(tmp_path, DATA, TUNE)
    path.write_text(path.read_text().replace("Intel(R)", "Intel(R)\nIntel(R)"))
    found = read_stages(tmp_path)
    assert [(run.title, run.seconds, run.cores, run.processor, run.command) for run in found] == [
        (title, seconds, 2, "Intel(R)", command) for title, seconds, command in (DATA, TUNE)
    ]


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        (lambda text: text[:-3], ["data"]),  # a torn last line
        (lambda text: text[10:], ["tune"]),
        (lambda text: "\0" * 1000 + "\n" + text, ["data", "tune"]),
        (lambda text: text.replace("594", "9" * 5000), ["data"]),
        (lambda text: text.replace("594", "-594"), ["data"]),
        (lambda text: text.replace("7 (tune)", "tune"), ["data"]),
        (lambda text: text + "x" * 100_000 + "\t" * 100_000, ["data", "tune"]),
    ],
)
def test_malformed_lines_are_left_out_with_a_warning(tmp_path, caplog, damage, names):
    path = put_stages(tmp_path, DATA, TUNE)
    path.write_text(damage(path.read_text()))
    assert names_of(tmp_path) == names
    assert str(path) in caplog.text


def test_bytes_that_are_no_text_and_more_than_can_be_read(tmp_path, caplog, monkeypatch):
    path = put_stages(tmp_path, DATA, TUNE)
    path.write_bytes(path.read_bytes().replace(b"Intel(R)", b"\xff\xfe").replace(b"\n", b"\r\n"))
    assert names_of(tmp_path) == ["data", "tune"] and not caplog.text
    monkeypatch.setattr(commands, "MOST_BYTES", path.stat().st_size - 5)
    assert names_of(tmp_path) == ["data"] and "left out all after" in caplog.text


def test_a_directory_without_stages_has_the_latest_run(tmp_path, caplog):
    assert noted_commands([tmp_path]) == []
    put(tmp_path / "recipe.json", run_of("./run.sh"))
    assert noted_commands([tmp_path]) == [(f"{tmp_path}, latest run", "./run.sh")]
    put_stages(tmp_path, DATA)
    assert [line for _, line in noted_commands([tmp_path])] == [DATA[2]]
    put(tmp_path / "recipe.json", [])
    assert [line for _, line in noted_commands([tmp_path])] == [DATA[2]]
    assert str(tmp_path / "recipe.json") in caplog.text


@pytest.mark.parametrize("content", [{}, [], {"calls": [{"command": 1, "models": {}}]}])
def test_a_damaged_record_of_evaluations(tmp_path, content):
    write_json(tmp_path / "evaluate.json", content)
    with refusal(tmp_path / "evaluate.json"):
        noted_commands([tmp_path])


@pytest.mark.parametrize("more", [[], ["--sweeps_only"]])
def test_reports_have_the_commands_of_each_directory(tmp_path, more):
    """A command that the report is given is listed if it is another one."""
    dirs = [make_sweeps(make_scores(tmp_path / name)) for name in ("seed_1", "seed2")]
    put_stages(dirs[0], DATA, TUNE)
    put(dirs[1] / "recipe.json", run_of("./run.sh --seed 2"))
    out = tmp_path / "RESULTS.md"
    words = ["--expdirs", *map(str, dirs), "--out", str(out), *more]
    known = [
        (f"{dirs[0]}, stage data:", DATA[2]),
        (f"{dirs[0]}, stage tune:", TUNE[2]),
        (f"{dirs[1]}, latest run:", "./run.sh --seed 2"),
    ]
    for command, expected in ((TUNE[2], known), ("./new.sh", [*known, ("", "./new.sh")])):
        assert results.main([*words, "--command", command]) == 0
        text = out.read_text().replace("\\", "").split("## Commands\n")[1]
        blocks = text.split("```")
        found = zip(blocks[::2], blocks[1::2], strict=False)
        assert [(note.strip(), line.removeprefix("bash\n").strip()) for note, line in found] == (
            expected
        )
