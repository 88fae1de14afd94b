import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from lors.bin.merge import main
from lors.merge.methods import METHODS

CONF = Path(__file__).parents[2] / "conf"
FURTHER = {"order": "low_rank_first", "threshold": "matrix", "keep_norm": False}


@pytest.fixture
def files(tmp_path):
    paths = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        state = {
            "encoder.encoders.0.self_attn.linear_q.weight": torch.randn(8, 8, generator=generator),
            "decoder.decoders.0.self_attn.linear_q.weight": torch.randn(8, 8, generator=generator),
            "ctc.ctc_lo.bias": torch.randn(5, generator=generator),
        }
        paths.append(str(tmp_path / f"{'base' if seed == 0 else f'e{seed}'}.pth"))
        torch.save(state, paths[-1])
    return paths


def arguments(files, tmp_path, *more):
    base, *experts = files
    return ["--base", base, "--experts", *experts, "--out", str(tmp_path / "m" / "m.pth"), *more]


def record(tmp_path):
    return yaml.safe_load((tmp_path / "m" / "merge.yaml").read_text())["plan"]


def test_method_and_params(files, tmp_path):
    more = ["--method", "lors", "--params", "rank=3", "density=0.1", "scaling_coef=0.2"]
    assert main(arguments(files, tmp_path, *more)) == 0
    assert record(tmp_path)["params"] == {"rank": 3, "density": 0.1, **FURTHER, "scaling_coef": 0.2}
    assert len(torch.load(tmp_path / "m" / "m.pth", weights_only=True)) == 3


def test_options_override_the_config(files, tmp_path):
    config = str(CONF / "merge_lors.yaml")
    more = ["--config", config, "--params", "density=0", "--dtype", "float16"]
    assert main(arguments(files, tmp_path, *more)) == 0
    assert record(tmp_path)["params"] == {"rank": 7, "density": 0.0, **FURTHER, "scaling_coef": 0.2}
    assert record(tmp_path)["dtype"] == "float16"


def test_config_may_name_the_models(files, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"base": files[0], "experts": files[1:], "method": "average"}))
    assert main(["--config", str(config), "--out", str(tmp_path / "m" / "m.pth")]) == 0
    assert record(tmp_path)["experts"] == files[1:]


@pytest.mark.parametrize("name", METHODS)
def test_shipped_configs_run(files, tmp_path, name):
    config = str(CONF / f"merge_{name}.yaml")
    assert main(arguments(files, tmp_path, "--config", config)) == 0
    assert record(tmp_path)["method"] == name


def test_the_default_is_lors_with_subspace_boosting(files, tmp_path):
    assert main(arguments(files, tmp_path, "--config", str(CONF / "merge_default.yaml"))) == 0
    plan = record(tmp_path)
    assert (plan["method"], plan["boost"]) == ("lors", 0.01)
    assert plan["params"]["rank"] == {"ratio": 0.01} and plan["params"]["density"] == 0.2


def test_dry_run_writes_nothing(files, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    more = ["--method", "lors", "--dry_run"]
    assert main(arguments(files, tmp_path, *more)) == 0
    printed = capsys.readouterr().out
    assert (
        "rank=7 density=0.2 " in printed and " scaling_coef=0.5" in printed and "prune" in printed
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_dry_run_finds_what_the_merge_would(files, capsys):
    options = ["--method", "lors", "--base", files[0], "--dry_run", "--experts", files[1]]
    assert main([*options, files[1]]) == 1
    assert capsys.readouterr().err.count(files[1]) == 2
    assert main([*options, "--out", files[1]]) == 2
    assert files[1] in capsys.readouterr().err


def test_options_that_do_not_belong_to_a_plan(files, tmp_path, capsys):
    config = tmp_path / "c.yaml"
    config.write_text("method: lors\nout: m.pth\nnj: 2\n")
    assert main(arguments(files, tmp_path, "--config", str(config))) == 2
    error = capsys.readouterr().err
    assert str(config) in error and "--out and --nj" in error


def test_a_record_makes_the_same_model_again(files, tmp_path):
    given = ["--params", "density=0.3", "--weights", "1", "0.5", "--dtype", "bfloat16"]
    given += ["--svc", "0.5", "--boost", "0.01", "--lines", "0.5", "1"]
    assert main(arguments(files, tmp_path, "--method", "lors", *given)) == 0
    first, again = tmp_path / "m" / "m.pth", tmp_path / "again" / "m.pth"
    written = first.with_name("merge.yaml")
    kept = {name: record(tmp_path)[name] for name in ("svc", "boost", "lines")}
    assert kept == {"svc": 0.5, "boost": 0.01, "lines": [0.5, 1.0]}
    assert main(["--config", str(written), "--out", str(again)]) == 0
    assert again.read_bytes() == first.read_bytes()
    assert again.with_name("merge.yaml").read_text() == written.read_text()


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_a_record_of_models_that_have_changed(files, tmp_path, capsys, changed):
    assert main(arguments(files, tmp_path, "--method", "average")) == 0
    written, again = tmp_path / "m" / "merge.yaml", tmp_path / "n" / "n.pth"
    replay = ["--config", str(written), "--out", str(again)]
    state = torch.load(files[changed], weights_only=True)
    state["ctc.ctc_lo.bias"] += 1
    torch.save(state, files[changed])
    for more in ([], ["--dry_run"]):
        assert main([*replay, *more]) == 1
        error = capsys.readouterr().err
        assert [name for name in files if f"{name}: fingerprint" in error] == [files[changed]]
        assert not again.parent.exists()
    # Models that are given are those that are meant.
    given = ["--base", files[0]] if changed == 0 else ["--experts", *files[1:]]
    assert main([*replay, *given]) == 0


def test_a_record_of_a_merged_model_that_has_changed(files, tmp_path, capsys):
    """The model of --onto is an input like the others."""
    base, one, two = files
    start, out = tmp_path / "one" / "m.pth", tmp_path / "two" / "m.pth"
    method = ["--method", "lors", "--params", "scaling_coef=0.5", "--base", base]
    assert main([*method, "--experts", one, "--out", str(start)]) == 0
    assert main([*method, "--experts", two, "--onto", str(start), "--out", str(out)]) == 0
    replay = ["--config", str(out.with_name("merge.yaml")), "--out", str(tmp_path / "n" / "n.pth")]
    assert main(replay) == 0
    changed = ["--method", "average", "--base", base, "--experts", one, "--out", str(start)]
    assert main([*changed, "--params", "scaling_coef=0.3"]) == 0
    assert main([*replay, "--dry_run"]) == 1
    error = capsys.readouterr().err
    assert f"{start}: fingerprint" in error and "--onto" in error
    assert main([*replay, "--onto", str(start)]) == 0  # it is meant


def test_a_record_with_too_few_fingerprints(files, tmp_path, capsys):
    assert main(arguments(files, tmp_path, "--method", "average")) == 0
    place = tmp_path / "m" / "merge.yaml"
    content = yaml.safe_load(place.read_text())
    content["fingerprints"]["experts"].pop()
    place.write_text(yaml.safe_dump(content))
    assert main(["--config", str(place), "--out", str(tmp_path / "n" / "n.pth")]) == 1
    assert "experts: 2" in capsys.readouterr().err


def test_a_record_of_a_merge_that_did_not_end(files, tmp_path, capsys):
    unfinished = tmp_path / "merge.yaml"
    unfinished.write_text("model: model.pth\n")
    assert main(arguments(files, tmp_path, "--config", str(unfinished))) == 2
    error = capsys.readouterr().err
    assert str(unfinished) in error and "model.pth" in error


@pytest.mark.parametrize("taken_away", [False, True])
def test_another_expert_onto_a_merge_with_its_settings(files, tmp_path, taken_away):
    """The record's settings hold for the expert that is added to its merge, or taken from it."""
    base, one, two = files
    out, params = (
        tmp_path / "m" / "m.pth",
        ["--params", "rank=2", "density=0.1", "scaling_coef=0.4"],
    )
    first = [one, two] if taken_away else [one]
    words = ["--base", base, "--experts", *first, "--out", str(out), "--method", "lors", *params]
    assert main(words) == 0
    changed, whole = tmp_path / "n" / "n.pth", tmp_path / "w" / "w.pth"
    more = ["--config", str(out.with_name("merge.yaml")), "--onto", str(out), "--experts", two]
    assert main([*more, "--weights", "-1" if taken_away else "1", "--out", str(changed)]) == 0
    expected = [one] if taken_away else [one, two]
    words = [
        "--base",
        base,
        "--experts",
        *expected,
        "--out",
        str(whole),
        "--method",
        "lors",
        *params,
    ]
    assert main(words) == 0
    found, wanted = (torch.load(path, weights_only=True) for path in (changed, whole))
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)


def test_empty_params_in_the_config(files, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("method: average\nparams:\n")
    assert main(arguments(files, tmp_path, "--config", str(config))) == 0
    assert record(tmp_path)["params"] == {"scaling_coef": 1.0}


def test_list_methods(capsys):
    assert main(["--list_methods"]) == 0
    printed = capsys.readouterr().out
    for name in METHODS:
        assert f"\n{name}\n" in f"\n{printed}"
    assert "density (a number from 0 to 1; default 0.2)" in printed


@pytest.mark.parametrize(
    ("more", "facts"),
    [
        ([], ["--method"]),
        (["--method", "losr"], ["losr", "did you mean lors"]),
        (["--method", "lors", "--params", "rnak=3"], ["rnak", "did you mean rank"]),
        (["--method", "lors", "--params", "rank=many"], ["rank", "many", "{ratio: a number"]),
        (["--method", "lors", "--params", "rank"], ["--params", "'rank'"]),
        (["--method", "lors", "--policy", "espnet"], ["--policy", "espnet_s2t"]),
        (["--method", "lors", "--seed", "-1"], ["seed", "at least 0", "-1"]),
        (["--method", "lors", "--weights", "nan", "1"], ["weights[0]", "nan"]),
        (["--method", "lors", "--nj", "0"], ["--nj", "got: 0"]),
        (["--method", "lors", "--device", "meta"], ["--device", "meta"]),
        (["--method", "lors", "--out", "m.txt"], ["m.txt"]),
    ],
)
def test_usage_errors_exit_2(files, tmp_path, capsys, more, facts):
    for dry_run in ([], ["--dry_run"]):
        assert main(arguments(files, tmp_path, *more, *dry_run)) == 2
        error = capsys.readouterr().err
        assert all(fact in error for fact in facts) and len(error) < 1000
    assert not (tmp_path / "m").exists()


def test_missing_out_base_and_experts(files, capsys):
    for out in ([], ["--out", ""]):
        assert main(["--method", "lors", "--base", files[0], "--experts", files[1], *out]) == 2
        assert "--out" in capsys.readouterr().err
    assert main(["--method", "lors", "--out", "x.pth"]) == 2
    error = capsys.readouterr().err
    assert "--base, --experts" in error


def test_paths_in_a_file_begin_in_the_current_directory(files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    base, *experts = [Path(file).name for file in files]
    assert main(arguments([base, *experts], tmp_path, "--method", "average")) == 0
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    again = ["--config", "../m/merge.yaml", "--out", "m/m.pth"]
    for options, missing in (
        ([], "base: base.pth"),
        (["--base", "../base.pth"], "experts: e1.pth"),
    ):
        capsys.readouterr()
        assert main([*again, *options]) == 1
        error = capsys.readouterr().err
        assert all(fact in error for fact in ("../m/merge.yaml", missing, str(Path.cwd())))
    assert main([*again, "--base", "../base.pth", "--experts", "../e1.pth", "../e2.pth"]) == 0
    assert main(["--method", "average", "--base", "base.pth", "--experts", "e", "--dry_run"]) == 1
    assert str(Path.cwd()) in capsys.readouterr().err


def test_another_method_than_that_of_the_file(files, tmp_path, capsys):
    config = str(CONF / "merge_lors.yaml")
    assert main(arguments(files, tmp_path, "--config", config, "--method", "average")) == 2
    error = capsys.readouterr().err
    facts = (config, "rank, density", str(CONF / "merge_average.yaml"), "leave --config out")
    assert all(fact in error for fact in facts)
    assert main(arguments(files, tmp_path, "--config", config)) == 0
    again = ["--config", str(tmp_path / "m" / "merge.yaml"), "--out", str(tmp_path / "m2/m.pth")]
    assert main([*again, "--method", "average"]) == 2
    assert "models as options" in capsys.readouterr().err
    # The other way round, all parameters of the file are known.
    assert main(arguments(files, tmp_path, "--config", str(CONF / "merge_average.yaml"))) == 0
    assert main([*again, "--method", "lors", "--dry_run"]) == 0


def test_weights_of_other_experts_than_those_of_the_command_line(files, tmp_path, capsys):
    assert main(arguments(files, tmp_path, "--method", "average", "--weights", "2", "1")) == 0
    again = ["--config", str(tmp_path / "m" / "merge.yaml"), "--experts", files[1]]
    again += ["--out", str(tmp_path / "m2/m.pth")]
    assert main(again) == 2
    error = capsys.readouterr().err
    assert all(fact in error for fact in (str(tmp_path / "m/merge.yaml"), "2.0 1.0", "--weights"))
    assert main([*again, "--weights", "1"]) == 0


def test_data_errors_exit_1(files, tmp_path, capsys):
    Path(files[1]).write_bytes(b"PK")
    assert main(arguments(files, tmp_path, "--method", "lors")) == 1
    assert files[1] in capsys.readouterr().err


def test_device(files, tmp_path, capsys):
    assert main(arguments(files, tmp_path, "--method", "lors", "--device", "cpu")) == 0
    for device in ("gpu", "cuda:99"):
        assert main(arguments(files, tmp_path, "--method", "lors", "--device", device)) == 2
        assert device in capsys.readouterr().err


@pytest.mark.parametrize("method", ["lors", "lors_actmat"])
def test_cache_is_used_again(files, tmp_path, method):
    options = ("--method", method, "--cache", str(tmp_path / "cache"))
    assert main(arguments(files, tmp_path, *options)) == 0
    kept = sorted((tmp_path / "cache").iterdir())
    before = [path.stat().st_mtime_ns for path in kept]
    assert kept and main(arguments(files, tmp_path, *options)) == 0
    assert [path.stat().st_mtime_ns for path in kept] == before


def test_cache_for_a_method_without_decompositions(files, tmp_path, capsys):
    options = ("--method", "ties", "--cache", str(tmp_path / "cache"))
    assert main(arguments(files[:2], tmp_path, *options)) == 0
    assert not (tmp_path / "cache").exists()
    error = capsys.readouterr().err
    assert "ties" in error and "merged 1 expert into" in error


def test_unknown_option_exits_2():
    with pytest.raises(SystemExit) as caught:
        main(["--metod", "lors"])
    assert caught.value.code == 2


ONLY_RECIPES = "espnet espnet2 torchaudio soundfile sentencepiece jiwer sacrebleu whisper librosa"
ONLY_UNIX = "fcntl grp pwd resource termios tty pty syslog readline"


@pytest.mark.parametrize("lacking", [f"{ONLY_RECIPES} matplotlib", ONLY_UNIX])
def test_merging_needs_neither_espnet_nor_unix(files, tmp_path, lacking):
    """A merge succeeds if these packages or modules cannot be imported."""
    code = (
        "import sys\n"
        f"for name in '{lacking}'.split():\n"
        "    sys.modules[name] = None\n"
        "from lors.bin import export_whisper, extract, inspect, merge\n"
        "sys.exit(merge.main(sys.argv[1:]))"
    )
    options = arguments(files, tmp_path, "--method", "lors")
    done = subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "m" / "m.pth").exists()
