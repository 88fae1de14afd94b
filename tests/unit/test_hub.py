"""Models by their names on the Hugging Face Hub, against a Hub on loopback."""

import io
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml

from lors.bin.import_base import main as import_base
from lors.bin.lors import main
from lors.checkpoint import hub as names
from lors.checkpoint.expert import open_expert, open_model
from lors.checkpoint.hub import HubName, hub_name, local_path, origin_of
from lors.checkpoint.reader import Checkpoint
from lors.errors import UsageError
from lors.models.espnet_s2t.family import EspnetS2T
from tests.hub_server import OTHER_TOKEN, TOKEN, Fault
from tests.integration.tiny_whisper import make_whisper
from tests.refusal import refusal
from tests.unit.merge_models import PRUNED, model

ROOT = Path(__file__).parents[2]


def tensors(state):
    return safetensors.torch.save(state)


def pickled(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def lora(seed=1, **config):
    """Return the files of an adapter of PEFT for `PRUNED` of the small models."""
    generator = torch.Generator().manual_seed(seed)
    module = f"base_model.model.{PRUNED.removesuffix('.weight')}"
    up, down = (torch.randn(*shape, generator=generator) for shape in ((8, 2), (2, 8)))
    factors = {f"{module}.lora_B.weight": up, f"{module}.lora_A.weight": down}
    described = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, **config}
    return json.dumps(described).encode(), factors


@pytest.fixture
def models(hub):
    """org/base, and two experts: org/de, in a folder and with a tag, and org/lora-fr."""
    hub.add("org/base", {"model.safetensors": tensors(model(0)), "README.md": b"# Base\n"})
    expert = hub.add("org/de", {"best/model.safetensors": tensors(model(1)), "old.pth": b"junk"})
    expert.refs["v1"] = expert.refs["main"]
    expert.commit({"best/model.safetensors": tensors(model(2))})
    config, factors = lora()
    files = {"adapter_config.json": config, "adapter_model.safetensors": tensors(factors)}
    hub.add("org/lora-fr", {**files, "optimizer.pt": b"junk", "checkpoint-9/trainer.bin": b"junk"})
    return hub


def merge(out, *options):
    words = ["merge", "--method", "task_arithmetic", "--params", "scaling_coef=1"]
    return main([*words, "--out", str(out), *options])


def merged(out):
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("openai/whisper-small", HubName("openai/whisper-small")),
        ("org/lora-fr@v2", HubName("org/lora-fr", "v2")),
        ("org/x@feature%2Fa/de/best", HubName("org/x", "feature/a", "de/best")),
        ("org/x@refs/pr/3/de", HubName("org/x", "refs/pr/3", "de")),
        ("org/x/de", HubName("org/x", None, "de")),
        ("hf://org/x/de/model.pth", HubName("org/x", None, "de/model.pth")),
        (Path("hf://org/x"), HubName("org/x")),
        ("org/x/model.pth", None),
        ("model.pth", None),
        ("./org/x", None),
        ("/org/x", None),
        ("../x", None),
        ("~/x", None),
        ("org/a--b", None),
        ("org//x", None),
        ("org/x/", None),
        ("", None),
    ],
)
def test_names(text, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub_name(text) == expected
    if expected is not None:
        assert hub_name(str(expected)) == expected


@pytest.mark.parametrize(
    "text", ["hf://", "hf://org", "hf://org/x/../y", "hf://a b/c", "hf://o/x@"]
)
def test_no_names(text):
    with refusal(text):
        hub_name(text)


@pytest.mark.parametrize("name", ["org/base", "org/de/best"])
def test_a_local_path_of_the_same_name_wins(name, models, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir(parents=True)
    (tmp_path / name / "model.safetensors").write_bytes(tensors(model(7)))
    caplog.set_level(logging.INFO)
    names._tell_of_local.cache_clear()
    local = open_model(name)
    assert torch.equal(local.tensor(PRUNED), model(7)[PRUNED]) and not models.requests
    assert f"hf://{name}" in caplog.text


def test_a_name_with_its_scheme_is_not_that_of_a_local_path(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org/base").mkdir(parents=True)
    (tmp_path / "org/base/model.safetensors").write_bytes(tensors(model(7)))
    assert torch.equal(open_model("hf://org/base").tensor(PRUNED), model(0)[PRUNED])


@pytest.mark.parametrize("text", ["./org/base", "org//base", "org/base/", "./org/de/best"])
def test_a_path_in_another_form_stays_a_path(text, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with refusal("checkpoint not found", tmp_path):
        open_expert(open_model("hf://org/base"), text)
    assert not any("org/de" in path for path in models.paths())


def test_merge_by_names(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "merged/model.pth"
    assert merge(out, "--base", "org/base", "--experts", "org/de@v1/best", "org/lora-fr") == 0
    base = model(0)[PRUNED]
    factors = [*lora()[1].values()]
    change = 2 * factors[0] @ factors[1] + model(1)[PRUNED] - base
    torch.testing.assert_close(merged(out)[PRUNED], base + change)
    # Nothing but what is needed.
    assert models.fetched() == {
        *("model.safetensors", "best/model.safetensors"),
        *("adapter_config.json", "adapter_model.safetensors"),
    }

    record = yaml.safe_load((tmp_path / "merged/merge.yaml").read_text())["plan"]
    commits = {name: repo.refs["main"] for name, repo in models.repos.items()}
    assert record["base"] == f"hf://org/base@{commits['org/base']}"
    assert record["experts"] == [
        f"hf://org/de@{models.repos['org/de'].refs['v1']}/best",
        f"hf://org/lora-fr@{commits['org/lora-fr']}",
    ]


def test_the_record_makes_the_same_model_after_the_hub_has_changed(models, tmp_path):
    out, again = tmp_path / "merged/model.pth", tmp_path / "again/model.pth"
    assert merge(out, "--base", "org/base", "--experts", "org/de/best") == 0
    models.repos["org/de"].commit({"best/model.safetensors": tensors(model(5))})
    names._fetched.cache_clear()
    assert main(["merge", "--config", str(out.with_name("merge.yaml")), "--out", str(again)]) == 0
    assert out.read_bytes() == again.read_bytes()


def test_a_local_model_in_a_record_is_never_one_of_the_hub(models, tmp_path, monkeypatch, capsys):
    """Another directory than that of the merge: the record has a path relative to the former."""
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folder = tmp_path / "here/org/de/best"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(tensors(model(1)))
    out = tmp_path / "merged/model.pth"
    assert merge(out, "--base", "org/base", "--experts", "org/de/best") == 0
    content = out.read_bytes()
    replay = ["merge", "--config", str(out.with_name("merge.yaml")), "--out"]
    assert main([*replay, str(tmp_path / "again/model.pth")]) == 0
    assert (tmp_path / "again/model.pth").read_bytes() == content
    monkeypatch.chdir(tmp_path / "there")
    models.requests.clear()
    assert main([*replay, str(tmp_path / "third/model.pth")]) == 1
    assert "org/de/best" in capsys.readouterr().err
    assert not any("org/de" in path for path in models.paths())


def test_a_second_merge_downloads_nothing(models, tmp_path):
    assert merge(tmp_path / "a/model.pth", "--base", "org/base", "--experts", "org/lora-fr") == 0
    models.requests.clear()
    names._fetched.cache_clear()
    assert merge(tmp_path / "b/model.pth", "--base", "org/base", "--experts", "org/lora-fr") == 0
    assert models.requests and not models.fetched()


@pytest.mark.parametrize("how", ["offline mode", "no network"])
def test_without_a_network_the_cache_is_used(how, models, tmp_path, offline, capsys):
    out = tmp_path / "merged/model.pth"
    options = ("--base", "org/base", "--experts", "org/de@v1/best", "org/lora-fr")
    assert merge(out, *options) == 0
    content = out.read_bytes()
    if how == "offline mode":
        offline()
    else:
        models.stop()
    names._fetched.cache_clear()
    models.requests.clear()
    assert merge(out, *options) == 0
    assert out.read_bytes() == content and not models.requests
    commit = models.repos["org/base"].refs["main"]
    assert f"commit {commit} of hf://org/base is in the cache" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["offline mode", "no network"])
def test_without_a_network_and_a_copy(how, models, offline):
    if how == "offline mode":
        offline()
        facts = ["HF_HUB_OFFLINE"]
    else:
        models.stop()  # a refused connection
        facts = ["cannot be reached", "network"]
    with refusal("org/base", *facts, kind=names.Unreachable):
        open_model("org/base")


def test_an_incomplete_copy_without_a_network(models, offline):
    models.repos["org/base"].commit({"model.safetensors": b"x", "config.json": b"{}"})
    from huggingface_hub import hf_hub_download

    hf_hub_download("org/base", "config.json")  # as another program would do
    offline()
    with refusal("org/base", "cache", "HF_HUB_OFFLINE"):
        open_model("org/base")


def test_the_newest_commit_of_a_branch(models):
    models.repos["org/base"].commit({"model.safetensors": tensors(model(1))})
    assert torch.equal(open_model("org/base").tensor(PRUNED), model(1)[PRUNED])
    # One process reads one commit.
    models.repos["org/base"].commit({"model.safetensors": tensors(model(2))})
    assert torch.equal(open_model("org/base").tensor(PRUNED), model(1)[PRUNED])
    names._fetched.cache_clear()
    assert torch.equal(open_model("org/base").tensor(PRUNED), model(2)[PRUNED])


FORMS = {
    "safetensors first": {
        "model.safetensors": tensors(model(3)),
        **dict.fromkeys(("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"), b"junk"),
    },
    "torch": {"pytorch_model.bin": pickled(model(3)), "tf_model.h5": b"junk"},
    "one file": {"valid.acc.best.pth": pickled(model(3)), "README.md": b"junk"},
    "espnet": {
        "meta.yaml": yaml.safe_dump(
            {
                "files": {"s2t_model_file": "exp/s2t/ave.pth"},
                "yaml_files": {"s2t_train_config": "exp/s2t/config.yaml"},
            }
        ).encode(),
        "exp/s2t/ave.pth": pickled(model(3)),
        "exp/s2t/config.yaml": b"token_list:\n- a\n- b\nbpemodel: data/bpe/bpe.model\n",
        "exp/s2t/images/loss.png": b"junk",
        "data/bpe/bpe.model": b"bpe",
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_models(form, hub):
    hub.add("org/x", FORMS[form])
    found = open_model("org/x")
    assert torch.equal(found.tensor(PRUNED), model(3)[PRUNED])
    assert {name for name, content in FORMS[form].items() if content == b"junk"}.isdisjoint(
        hub.fetched()
    )
    assert origin_of(found.path).startswith(f"hf://org/x@{hub.repos['org/x'].refs['main']}")
    if form == "espnet":
        assert (local_path("org/x") / "data/bpe/bpe.model").read_bytes() == b"bpe"


def test_a_sharded_model(hub):
    state = model(3)
    halves = {"model-1-of-2.safetensors": [*state][:2], "model-2-of-2.safetensors": [*state][2:]}
    files = {file: tensors({n: state[n] for n in held}) for file, held in halves.items()}
    weight_map = {name: file for file, held in halves.items() for name in held}
    index = json.dumps({"weight_map": weight_map}).encode()
    hub.add("org/x", {"model.safetensors.index.json": index, **files, "other.safetensors": b"x"})
    found = open_model("org/x")
    assert all(torch.equal(found.tensor(name), state[name]) for name in state)
    assert hub.fetched() == {"model.safetensors.index.json", *files}


def test_an_index_that_leads_elsewhere(hub):
    index = json.dumps({"weight_map": {"a": "../../secret.safetensors"}}).encode()
    hub.add("org/x", {"de/model.safetensors.index.json": index, "secret.safetensors": b"x"})
    with refusal("secret.safetensors"):
        open_model("org/x/de")
    assert hub.fetched() == {"de/model.safetensors.index.json"}


def test_a_pickle_with_code_is_not_run(hub, tmp_path):
    class Bad:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "broken-in"),))

    hub.add("org/x", {"pytorch_model.bin": pickled({"a": torch.ones(1), "b": Bad()})})
    with refusal("pytorch_model.bin"):
        open_model("org/x")
    assert not (tmp_path / "broken-in").exists()


def test_an_adapter_of_an_older_peft(models):
    config, factors = lora(base_model_name_or_path="org/base")
    files = {"adapter_config.json": config, "adapter_model.bin": pickled(factors)}
    models.add("org/old", files)
    base = open_model("org/base")
    expected = open_expert(base, "org/lora-fr").delta(PRUNED)
    assert torch.equal(open_expert(base, "org/old").delta(PRUNED), expected)


def test_the_name_of_the_base_model_of_an_adapter_is_compared(models, caplog):
    for name in ("base", "other"):
        config, factors = lora(base_model_name_or_path=f"org/{name}")
        files = {"adapter_config.json": config, "adapter_model.safetensors": tensors(factors)}
        models.add(f"org/on-{name}", files)
    base = open_model("org/base")
    open_expert(base, "org/on-base")
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    open_expert(base, "org/on-other")
    assert "trained on org/other" in caplog.text


def test_a_private_model(models, monkeypatch, tmp_path):
    models.repos["org/base"].private = True
    with refusal("org/base", "401", "hf auth login"):
        open_model("org/base")
    monkeypatch.setenv("HF_TOKEN", OTHER_TOKEN)
    with refusal("org/base", "404", "hf auth login"):
        open_model("org/base")
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "token").write_text(TOKEN)
    assert torch.equal(open_model("org/base").tensor(PRUNED), model(0)[PRUNED])
    # The token goes to the Hub, never to the storage.
    with_token = {path for _, path, token in models.requests if token}
    assert any("/resolve/" in path for path in with_token)
    assert not any(path.startswith("/lfs/") for path in with_token)


def test_a_gated_model(models, monkeypatch):
    models.repos["org/base"].gated = True
    for token, status in ((None, 401), (OTHER_TOKEN, 403)):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        with refusal("org/base", "gated", status):
            open_model("org/base")


def test_a_token_that_the_hub_refuses(models, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with refusal("org/base", "Invalid credentials", "hf auth login") as caught:
        open_model("org/base")
    assert "hf_expired" not in str(caught.value)


def test_no_such_model_revision_or_folder(models):
    with refusal("org/none", "local path"):
        open_model("org/none")
    with refusal("org/de", "v9"):
        open_model("org/de@v9/best")
    with refusal("hf://org/de/fr", "hf://org/de/best/model.safetensors"):
        open_model("org/de/fr")
    models.add("org/empty", {"README.md": b"# Nothing"})
    with refusal("hf://org/empty"):
        open_model("org/empty")
    models.add("org/two", {"a.pth": b"x", "b.pth": b"x"})
    with refusal("hf://org/two/a.pth", "b.pth"):
        open_model("org/two")


def test_a_model_of_another_architecture(models, tmp_path, capsys):
    models.add("org/other", {"model.safetensors": tensors({"bert.weight": torch.ones(2, 2)})})
    out = tmp_path / "merged/model.pth"
    assert merge(out, "--base", "org/base", "--experts", "org/other") == 1
    told = capsys.readouterr().err
    assert "bert.weight" in told and "org--other" in told and not out.parent.exists()


def test_other_vocabularies(models, tmp_path, capsys):
    for name, tokens in (("org/base", b'{"a": 0, "b": 1}'), ("org/de", b'{"b": 0, "a": 1}')):
        repo = models.repos[name]
        folder = "best/" if name == "org/de" else ""
        repo.commit({**repo.files, f"{folder}vocab.json": tokens})
    options = ("--base", "org/base", "--experts", "org/de/best")
    assert merge(tmp_path / "merged/model.pth", *options) == 1
    assert "vocabularies" in capsys.readouterr().err


def test_too_many_requests(models):
    fault = Fault("GET /api/models/org/base", 429, headers={"Retry-After": "9"})
    models.faults.append(fault)
    with refusal("org/base", "429", kind=names.Unreachable):
        open_model("org/base")
    open_model("org/base")
    names._fetched.cache_clear()
    fault.times = 1
    open_model("org/base")  # from the cache


def test_a_connection_that_is_cut_goes_on_where_it_ended(models):
    models.faults.append(Fault("GET /lfs/", 0))
    found = open_model("org/base")
    assert torch.equal(found.tensor(PRUNED), model(0)[PRUNED])
    assert len([path for path in models.paths() if path.startswith("/lfs/")]) == 2


def test_an_error_of_the_storage_without_a_class_of_its_own(models, monkeypatch):
    """The storage Xet raises RuntimeError; a derived class is a fault of a program."""
    import huggingface_hub

    error = RuntimeError("Data processing error: file reconstruction error\nmore")

    def broken(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken)
    with refusal("org/base", "reconstruction", kind=names.Unreachable):
        open_model("org/base")
    error = RecursionError("too deep")
    with pytest.raises(RecursionError):
        open_model("org/base")


def test_a_damaged_download(models):
    models.faults.append(Fault("GET /lfs/", 200, times=99))  # another content
    with refusal("org/base", kind=names.Unreachable):
        open_model("org/base")
    models.faults.clear()
    assert torch.equal(open_model("org/base").tensor(PRUNED), model(0)[PRUNED])


def test_a_small_expert_of_a_model_on_the_hub(models, tmp_path):
    """Its base model is recorded by name and commit, and is found again on another machine."""
    made = tmp_path / "de_lora"
    options = ["--base", "org/base", "--expert", "org/de/best", "--rank", "2"]
    assert main(["extract", *options, "--as", "lora", "--out", str(made)]) == 0
    commit = models.repos["org/base"].refs["main"]
    assert json.loads((made / "base.json").read_text())["model"] == f"hf://org/base@{commit}"
    config = json.loads((made / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/base"
    from lors.checkpoint.expert import base_of

    assert origin_of(base_of(made)) == f"hf://org/base@{commit}"
    # The same command again replaces it, as for local models.
    assert main(["extract", *options, "--as", "lora", "--out", str(made)]) == 0


def test_inspect_by_names(models, capsys):
    assert main(["inspect", "--base", "org/base", "--experts", "org/de/best", "org/lora-fr"]) == 0
    assert "lora-fr" in capsys.readouterr().out


S2T = {
    "config.yaml": b"token_list:\n- a\nbpemodel: old/place/bpe.model\nnormalize_conf:\n"
    b"  stats_file: feats_stats.npz\n",
    "model.pth": pickled(model(3)),
    "bpe.model": b"bpe",
    "feats_stats.npz": b"stats",
    "optimizer.pt": b"junk",
}


def test_the_base_model_of_a_recipe_of_espnet(hub, tmp_path):
    """From a directory with the files of a recipe, and from a package of ESPnet."""
    hub.add("org/s2t", S2T)
    hub.add("org/packed", FORMS["espnet"])
    for name in ("org/s2t", "org/packed"):
        EspnetS2T.check_options({"base_model": name})
        out = tmp_path / name
        assert import_base(["--base_model", name, "--out", str(out)]) == 0
        assert torch.equal(
            torch.load(out / "model.pth", weights_only=True)[PRUNED], model(3)[PRUNED]
        )
        config = yaml.safe_load((out / "config.yaml").read_text())
        assert config["bpemodel"] == str(out / "bpe.model") and config["token_list"]
        assert (out / "bpe.model").read_bytes() == b"bpe"
        source = yaml.safe_load((out / "source.yaml").read_text())
        commit = hub.repos[name].refs["main"]
        file = "/model.pth" if name == "org/s2t" else ""
        assert source == {"base_model": name, "source": f"hf://{name}@{commit}{file}"}
    assert (tmp_path / "org/s2t/feats_stats.npz").exists()
    assert "optimizer.pt" not in hub.fetched()
    assert import_base(["--base_model", "org/none", "--out", str(tmp_path / "no")]) == 1
    with refusal("base/model.pth", kind=UsageError):
        EspnetS2T.check_options({"base_model": "base/model.pth"})


def test_a_whisper_of_the_hub_in_every_program(hub, tmp_path):
    file = make_whisper(tmp_path / "tiny.pt")
    state = torch.load(file, weights_only=True)["model_state_dict"]
    exported = tmp_path / "hf"
    assert main(["export-whisper", "--model", str(file), "--out", str(exported)]) == 0
    hub.add("org/whisper", {path.name: path.read_bytes() for path in exported.iterdir()})

    words = ["--model_family", "whisper", "--base_model", "org/whisper"]
    assert import_base([*words, "--out", str(tmp_path / "base")]) == 0
    imported = torch.load(tmp_path / "base/model.pth", weights_only=True)
    assert all(torch.equal(imported[name], value) for name, value in state.items())
    source = yaml.safe_load((tmp_path / "base/source.yaml").read_text())["source"]
    assert source == f"hf://org/whisper@{hub.repos['org/whisper'].refs['main']}"

    again = tmp_path / "again"
    assert main(["export-whisper", "--model", "org/whisper", "--out", str(again)]) == 0
    for path in exported.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()

    files = {path.name: path.read_bytes() for path in (tmp_path / "base").glob("[!.]*")}
    hub.add("org/recipe", files)
    small = tmp_path / "quantised"
    assert main(["quantise", "--model", "org/recipe", "--out", str(small)]) == 0
    hub.add("org/small", {path.name: path.read_bytes() for path in small.glob("[!.]*")})
    restored = ["quantise", "--restore", "--model", "org/small", "--out"]
    assert main([*restored, str(tmp_path / "restored.pth")]) == 0
    assert torch.load(tmp_path / "restored.pth", weights_only=True).keys() == state.keys()


def test_the_package_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    with refusal("org/base", "local path", "pip install huggingface_hub"):
        Checkpoint.open("org/base")


def test_local_files_need_no_package(tmp_path):
    """In a process of its own, as another test may have imported the package."""
    for seed, name in enumerate(("base.pth", "de.pth")):
        torch.save(model(seed), tmp_path / name)
    code = (
        "import sys; from lors.bin.lors import main; status = main(sys.argv[1:]); "
        "sys.exit(status or ('huggingface_hub' in sys.modules and 9))"
    )
    words = ["merge", "--method", "average", "--base", "base.pth", "--experts", "de.pth"]
    subprocess.run(
        [sys.executable, "-c", code, *words, "--out", "merged/model.pth"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )


def test_the_environment_of_huggingface_hub(models, tmp_path):
    """The usual variables of the package: HF_ENDPOINT, HF_HOME, HF_TOKEN, HF_HUB_OFFLINE."""
    models.repos["org/base"].private = True
    variables = {"HF_ENDPOINT": models.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}

    def run(out, **more):
        environment = {**os.environ, **variables, **more, "PYTHONPATH": str(ROOT)}
        words = ["--method", "average", "--base", "org/base", "--experts", "org/lora-fr"]
        return subprocess.run(
            [sys.executable, "-m", "lors.bin.merge", *words, "--out", out],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )

    done = run("a/model.pth")
    assert done.returncode == 0, done.stderr
    assert not re.search(r"\d+%", done.stderr)  # no progress bars where nobody looks
    models.stop()
    done = run("b/model.pth", HF_HUB_OFFLINE="1", HF_TOKEN="")
    assert done.returncode == 0 and "HF_HUB_OFFLINE" in done.stderr, done.stderr
    assert (tmp_path / "a/model.pth").read_bytes() == (tmp_path / "b/model.pth").read_bytes()
