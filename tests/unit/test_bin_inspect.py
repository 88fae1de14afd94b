import json

import pytest
import torch

from lors.bin.inspect import main

NAMES = [f"{part}.{part}s.0.self_attn.linear_q.weight" for part in ("encoder", "decoder")]


@pytest.fixture
def files(tmp_path):
    generator = torch.Generator().manual_seed(0)
    base = {name: torch.randn(12, 12, generator=generator) for name in NAMES}
    paths = [tmp_path / "base.pth"]
    torch.save(base, paths[0])
    for pair in ("de_asr", "fr_asr"):
        change = {name: value + 0.1 * torch.randn(12, 12) for name, value in base.items()}
        paths.append(tmp_path / "expert" / pair / "model.pth")
        paths[-1].parent.mkdir(parents=True)
        torch.save(change, paths[-1])
    return list(map(str, paths))


def test_tables_json_and_plots(files, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out, plots = tmp_path / "inspect.json", tmp_path / "plots"
    options = ["--rank", "3", "--out", str(out), "--plots", str(plots)]
    assert main(["--base", files[0], "--experts", *files[1:], *options]) == 0
    printed = capsys.readouterr().out
    assert "2 matrices, rank 3" in printed
    # Experts are called by what tells their paths apart.
    assert [line.split()[:1] for line in printed.splitlines()].count(["de_asr"]) == 4
    for part in ("stable rank", "cosine", "sign agreement", "overlap", "inflation"):
        assert part in printed
    content = json.loads(out.read_text())
    assert content["experts"] == {"de_asr": files[1], "fr_asr": files[2]}
    assert list(content["matrices"]) == NAMES
    assert len(content["matrices"][NAMES[0]]["experts"][1]["spectrum"]) == 12
    assert sorted(path.name for path in plots.iterdir()) == [
        "inflation.png",
        "pairs.png",
        "spectrum.png",
    ]
    assert all(path.stat().st_size > 5000 for path in plots.iterdir())


def test_matrices_with_nothing_to_measure(files, tmp_path, capsys):
    """An expert that learnt in one matrix only: the other one is in no mean."""
    pytest.importorskip("matplotlib")
    base, de = torch.load(files[0]), torch.load(files[1])
    torch.save({**base, NAMES[1]: de[NAMES[1]]}, files[2])
    run = ["--base", files[0], "--experts", *files[1:], "--plots", str(tmp_path / "plots")]
    assert main(run) == 0
    tables = [table.splitlines() for table in capsys.readouterr().out.split("\n\n")]
    for title in ("cosine", "sign agreement", "overlap"):
        rows = next(table for table in tables if table[0].startswith(title))[1:]
        assert [row.split()[1:] for row in rows] == [["1.000", "1.000"]] * 2
    torch.save({**base, "ctc.ctc_lo.bias": torch.ones(3)}, files[0])
    for number in (1, 2):
        torch.save({**base, "ctc.ctc_lo.bias": torch.ones(3) + number}, files[number])
    assert main(run) == 0
    printed, errors = capsys.readouterr()
    rows = [line.split()[1:] for line in printed.splitlines() if line.startswith("de_asr")]
    assert rows == [["0.000", "-", "-", "-", "1.000"], *[["-", "-"]] * 3]
    assert "inflation of the leading directions of the sum: -" in printed
    assert "Warning" not in errors


@pytest.mark.parametrize(("count", "lines"), [(1, 0), (2, 1)])
def test_inflation_is_of_several_experts(files, count, lines, capsys):
    assert main(["--base", files[0], "--experts", *files[1 : count + 1]]) == 0
    assert capsys.readouterr().out.count("inflation of") == lines


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--labels", "one"], "a label for every expert"),
        (["--rank", "0"], "rank to look at is too small"),
        (["--match", "nothing"], "no matrix to look at"),
    ],
)
def test_wrong_options(files, options, told, capsys):
    assert main(["--base", files[0], "--experts", *files[1:], *options]) == 2
    assert told in capsys.readouterr().err


def test_plots_without_matplotlib(files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    options = ["--base", files[0], "--experts", *files[1:], "--plots", str(tmp_path / "plots")]
    assert main(options) == 2
    assert "plots need matplotlib" in capsys.readouterr().err
    assert not (tmp_path / "plots").exists()
