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
        change = {
            name: value + 0.1 * torch.randn(12, 12, generator=generator)
            for name, value in base.items()
        }
        paths.append(tmp_path / "expert" / pair / "model.pth")
        paths[-1].parent.mkdir(parents=True)
        torch.save(change, paths[-1])
    return list(map(str, paths))


def test_tables_json_and_plots(files, tmp_path, capsys):
    out, plots = tmp_path / "inspect.json", tmp_path / "plots"
    options = ["--rank", "3", "--out", str(out), "--plots", str(plots)]
    assert main(["--base", files[0], "--experts", *files[1:], *options]) == 0
    printed = capsys.readouterr().out
    assert "2 matrices, rank 3" in printed
    # The labels are the parts in which the paths of the experts differ.
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


def test_matrices_without_a_measure(files, tmp_path, capsys):
    """An expert has changed only one matrix: the other matrix is left out of the means."""
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


@pytest.mark.parametrize("options", [["--labels", "one"], ["--rank", "0"], ["--match", "nothing"]])
def test_wrong_options(files, options, capsys):
    assert main(["--base", files[0], "--experts", *files[1:], *options]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in options)


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        (["--labels", "de", "de"], ["--labels", "de de"]),
        (["--out", "{de}"], ["--out", "{de}", ".json"]),
        (["--out", "{index}", "--experts", "{index}"], ["--out {index}"]),
        (
            ["--out", "{folder}/adapter/config.json", "--experts", "{folder}/adapter"],
            ["--out {folder}/adapter/config.json"],
        ),
        (["--out", "{folder}/adapter.json"], ["--out {folder}/adapter.json", "inspect.json"]),
        (["--out", "{de}/new/inspect.json"], ["--out: {de}"]),
        (["--plots", "{de}"], ["--plots: {de}"]),
        (["--plots", "{de}/new"], ["--plots: {de}"]),
    ],
)
def test_wrong_places_are_refused_before_any_work(files, tmp_path, options, facts, capsys):
    places = {
        "de": files[1],
        "folder": tmp_path,
        "index": tmp_path / "model.safetensors.index.json",
    }
    places["index"].write_text("{}")
    for name in ("adapter", "adapter.json"):
        (tmp_path / name).mkdir()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    options = [option.format(**places) for option in options]
    assert main(["--base", files[0], "--experts", *files[1:], *options]) == 2
    printed, errors = capsys.readouterr()
    assert all(fact.format(**places) in errors for fact in facts) and not printed
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_experts_that_differ_in_the_kind_of_file(files, tmp_path):
    """Without the suffix two of the paths would be equal."""
    third = tmp_path / "expert" / "de_asr" / "model.pt"
    state = torch.load(files[1])
    torch.save({"model_state_dict": {n: 2 * v for n, v in state.items()}, "dims": {}}, third)
    out = tmp_path / "inspect.json"
    experts = [*files[1:], str(third)]
    assert main(["--base", files[0], "--experts", *experts, "--out", str(out)]) == 0
    assert json.loads(out.read_text())["experts"] == {path: path for path in experts}


def test_plots_without_matplotlib(files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    options = ["--base", files[0], "--experts", *files[1:], "--plots", str(tmp_path / "plots")]
    assert main(options) == 2
    error = capsys.readouterr().err
    assert "--plots" in error and "matplotlib" in error
    assert not (tmp_path / "plots").exists()
