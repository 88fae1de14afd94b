"""lors upload: the card of a merged model, and its upload to a Hub on loopback."""

import json
import re
import shlex
import zipfile

import pytest
import torch
import yaml
from score_trees import make_experiment, make_scores

from lors.bin.lors import main
from lors.export.upload import is_edited, marked, repo_called
from lors.recipe.card import model_card, scores_of, sources_of
from lors.recipe.expdir import ExpDir
from tests.full_disk import largest_file
from tests.hub_server import OTHER_TOKEN, TOKEN, Fault
from tests.refusal import refusal
from tests.unit.merge_models import model
from tests.unit.test_hub import tensors

REPO = "org/merged"


def card_of(hub, repo=REPO):
    """Return the metadata and the text of the card on the Hub."""
    text = hub.repos[repo].files["README.md"].decode()
    _, data, body = text.split("---\n", 2)
    return yaml.safe_load(data), body


def card(licence="apache-2.0", **data):
    return ("---\n" + yaml.safe_dump({"license": licence, **data}) + "---\n# Model\n").encode()


@pytest.fixture
def owner(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


@pytest.fixture
def merged(owner, tmp_path, monkeypatch):
    """A merge of models of the Hub and a local one, and a directory of Hugging Face beside it."""
    monkeypatch.chdir(tmp_path)
    owner.add("org/base", {"model.safetensors": tensors(model(0)), "README.md": card()})
    files = {"model.safetensors": tensors(model(1)), "README.md": card(language="de")}
    owner.add("org/de", files)
    (tmp_path / "home of anna").mkdir()
    torch.save(model(2), tmp_path / "home of anna/french.pth")
    words = ["--base", "org/base", "--experts", "org/de", str(tmp_path / "home of anna/french.pth")]
    words += ["--weights", "1", "-0.5", "--method", "lors", "--params", "rank={ratio: 0.5}"]
    assert main(["merge", *words, "--out", "merged/model.pth"]) == 0
    folder = tmp_path / "merged/hf"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(tensors(model(7)))
    (folder / ".lock").write_text("")
    (folder / "merge.yaml").write_text((tmp_path / "merged/merge.yaml").read_text())
    owner.requests.clear()
    return folder


def upload(model, *options, repo=REPO):
    return main(["upload", str(model), repo, *options])


def test_a_directory_and_its_card(merged, owner, tmp_path, capsys):
    assert upload(merged, "--license", "mit", "--langs", "de", "fr") == 0
    repo = owner.repos[REPO]
    assert len(repo.messages) == 2  # the Hub's own first commit, and one for everything
    assert repo.files.keys() == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    assert repo.files["model.safetensors"] == (merged / "model.safetensors").read_bytes()
    assert not repo.private
    commit = repo.refs["main"]
    assert f"{owner.url}/{REPO}/commit/{commit}" in capsys.readouterr().out

    data, body = card_of(owner)
    assert data["base_model"] == ["org/base", "org/de"]
    assert data["base_model_relation"] == "merge" and data["license"] == "mit"
    assert data["library_name"] == "transformers" and data["language"] == ["de", "fr"]
    assert data["pipeline_tag"] == "automatic-speech-recognition"
    plan = yaml.safe_load(re.search(r"```yaml\n(.*?)```", body, re.DOTALL)[1])
    recorded = yaml.safe_load((tmp_path / "merged/merge.yaml").read_text())
    assert plan["fingerprints"] == recorded["fingerprints"]
    assert plan["plan"]["params"] == recorded["plan"]["params"]
    commits = {name: owner.repos[name].refs["main"] for name in ("org/base", "org/de")}
    assert plan["plan"]["base"] == f"hf://org/base@{commits['org/base']}"
    assert plan["plan"]["experts"] == [f"hf://org/de@{commits['org/de']}", "french.pth"]
    assert "home of anna" not in body and str(tmp_path) not in body
    assert (merged / "README.md").read_text() == repo.files["README.md"].decode()


def test_the_command_of_the_card_makes_the_model(merged, owner, tmp_path, monkeypatch):
    assert upload(merged, "--license", "mit", "--langs", "de", "fr") == 0
    command = re.search(r"```bash\n(.*?)\n```", card_of(owner)[1], re.DOTALL)[1]
    again = tmp_path / "again"
    again.mkdir()
    (again / "french.pth").write_bytes((tmp_path / "home of anna/french.pth").read_bytes())
    monkeypatch.chdir(again)
    assert main(shlex.split(command)[1:]) == 0
    assert (again / "model.pth").read_bytes() == (tmp_path / "merged/model.pth").read_bytes()


def test_the_licence_of_all_models(owner, tmp_path, monkeypatch, capsys):
    """One licence becomes that of the card; others, or unknown ones, give a warning and none."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "de", "fr")):
        owner.add(f"org/{name}", {"model.safetensors": tensors(model(seed)), "README.md": card()})
    options = ["--base", "org/base", "--experts", "org/de", "org/fr", "--method", "average"]
    assert main(["merge", *options, "--out", "merged/model.pth"]) == 0
    record = yaml.safe_load((tmp_path / "merged/merge.yaml").read_text())

    def data():
        return yaml.safe_load(model_card(record, REPO, "transformers").split("---\n")[1])

    assert data()["license"] == "apache-2.0"
    files = {"model.safetensors": tensors(model(2)), "README.md": card("cc-by-nc-4.0")}
    commit = owner.repos["org/fr"].commit(files)
    assert data()["license"] == "apache-2.0"  # that of the merged commit
    record["plan"]["experts"][1] = f"hf://org/fr@{commit}"
    assert "license" not in data()
    told = capsys.readouterr().err
    assert "org/fr: cc-by-nc-4.0" in told and "--license" in told
    for name in ("base", "de", "fr"):  # two licences without a name on the Hub may differ
        owner.repos[f"org/{name}"].commit({"README.md": card("other")})
    models = [f"hf://org/{name}" for name in ("base", "de", "fr")]
    record["plan"].update(base=models[0], experts=models[1:])
    assert "license" not in data()
    told = capsys.readouterr().err
    assert "org/base: other" in told and "--license" in told


@pytest.mark.parametrize(("experts", "told"), [(1, "1 model by"), (2, "2 models by")])
def test_the_number_of_merged_models(experts, told, owner):
    plan = {"base": "b.pth", "experts": ["e.pth"] * experts, "method": "lors", "params": {}}
    text = model_card({"plan": plan}, REPO, "espnet", licence="mit")
    assert f"A merge of {told} the method" in text


def scored(folder, name):
    """Make an experiment with scores in which a merged model has the record of the fixture's."""
    place = make_scores(folder / "exp") / "merged" / name
    place.mkdir(parents=True)
    (place / "merge.yaml").write_text((folder / "merged/merge.yaml").read_text())


def test_the_scores_of_an_experiment(merged, owner, tmp_path, capsys):
    scored(tmp_path, "lors.asr_st")
    options = ["--expdir", "exp", "--license", "mit", "--command", "./run.sh --nj 2"]
    assert upload(merged, *options, "--merged", "lors.asr_st") == 0
    data, body = card_of(owner)
    assert data["language"] == ["de", "en", "sv"] and data["metrics"] == ["wer", "bleu"]
    # WER and BLEU of lors.langs_tasks and of the base model in score_trees.SCORES.
    assert re.search(r"\| this model \| 30\.0 \| 40\.0 \| 35\.0 \|", body)
    assert re.search(r"\| base \| 40\.0 \| 60\.0 \| 50\.0 \|", body)
    assert re.search(r"\| this model \| 20\.0 \| 25\.0 \| 22\.5 \|", body)
    assert "nrefs:1\\|case:mixed\\|tok:13a" in body and "jiwer 4.0.0" in body
    assert "Without intervals" in body  # these scores have no files of utterances
    assert "./run.sh --nj 2" in body

    assert upload(merged, *options, "--merged", "lors.asr", "--dry_run") == 0
    told = capsys.readouterr().out
    assert re.search(r"\| this model \| 25\.0 \| 30\.0 \| 27\.5 \|", told) and "BLEU" not in told
    assert upload(merged, *options, "--merged", "ties.asr", "--dry_run") == 2
    assert upload(merged, "--expdir", "exp", "--dry_run") == 2
    assert upload(merged, *options, "--merged", "../x", "--dry_run") == 2


def test_a_method_that_has_no_scores_of_the_other_task(merged, owner, tmp_path, capsys):
    scored(tmp_path, "lors.asr")
    for path in (tmp_path / "exp/scores/test/lors.langs").glob("*_st.json"):
        path.unlink()
    options = ["--expdir", "exp", "--license", "mit", "--dry_run"]
    assert upload(merged, *options, "--merged", "lors.asr") == 0
    assert re.search(r"\| this model \| 25\.0 \| 30\.0 \| 27\.5 \|", capsys.readouterr().out)
    (tmp_path / "exp/scores/test/lors.langs/de_asr.json").unlink()
    assert upload(merged, *options, "--merged", "lors.asr") == 1
    assert "lors.langs/de_asr.json" in capsys.readouterr().err


def test_the_intervals_are_those_of_the_report(owner, tmp_path, monkeypatch):
    exp = make_experiment(tmp_path / "exp")
    for module in ("comparison", "significance", "card"):
        monkeypatch.setattr(f"lors.recipe.{module}.SAMPLES", 100)
    plan = {"base": "b.pth", "experts": ["e.pth"], "method": "lors", "params": {}}
    scores = scores_of(ExpDir(exp), "lors.asr_st")
    text = model_card({"plan": plan}, REPO, "espnet", scores, licence="mit")
    row = re.findall(r"\| this model \| (.*) \|", text)[0].split(" | ")
    report = (exp / "RESULTS.md").read_text().split("## 95 % intervals of WER")[1]
    ends = re.search(r"\| lors.langs\\_tasks \| (.*) \|", report)[1].split(" | ")
    assert [re.search(r"\((.*)\)", cell)[1] for cell in row] == ends
    for cell in row:
        value, low, high = map(float, re.findall(r"[\d.]+", cell))
        assert low < value < high
    assert "100 samples" in text


def test_the_card_of_a_model_for_translation(merged, owner, tmp_path, capsys):
    scored(tmp_path, "lors.st")
    options = ["--expdir", "exp", "--license", "mit", "--merged", "lors.st"]
    assert upload(merged, *options) == 0
    data, body = card_of(owner)
    assert "speech-translation" in data["tags"] and "transcribe" not in body
    assert '{"language": "de", "task": "translate"}' in body  # not English, the target

    package(tmp_path / "lors.st.zip")
    record = ("--record", "merged/merge.yaml", "--license", "mit", "--dry_run")
    assert upload(tmp_path / "lors.st.zip", *record, "--tasks", "st", "--langs", "en", "fr") == 0
    told = capsys.readouterr().out
    assert 'lang_sym="<fra>", task_sym="<st_eng>"' in told and "<asr>" not in told
    assert upload(merged, *record, "--tasks", "asr", "st", "--langs", "nb-NO") == 0
    told = capsys.readouterr().out
    assert '"task": "transcribe"' in told and '"task": "translate"' in told


@pytest.mark.parametrize(
    ("command", "kept"),
    [
        ("./run.sh --expdir /scratch/anna/exp --nj 2", "./run.sh --expdir PATH --nj 2"),
        ("./run.sh --expdir='/home/an'\\''na/x y'", "./run.sh --expdir=PATH"),
        (
            "./run.sh --data_opts '--corpus /home/anna/cv --archive https://x.org/anna'",
            "./run.sh --data_opts '--corpus PATH --archive https://x.org/anna'",
        ),
        ('./run.sh --base_model "~anna/a b.pt" ~/x', "./run.sh --base_model PATH PATH"),
        ("cd /home/anna; ./run.sh", "cd PATH; ./run.sh"),
        (
            "./run.sh --base_model org/x --datadir ../lors1/data --expdir exp/a",
            "./run.sh --base_model org/x --datadir ../lors1/data --expdir exp/a",
        ),
    ],
)
def test_the_command_on_the_card_has_no_absolute_path(command, kept, merged, owner):
    assert upload(merged, "--license", "mit", "--command", command) == 0
    block = re.search(r"```bash\n(.*?)\n```", card_of(owner)[1], re.DOTALL)[1]
    assert block.splitlines()[-1] == kept


def test_a_dry_run_writes_nothing(merged, owner, capsys):
    assert upload(merged, "--license", "mit", "--dry_run") == 0
    told = capsys.readouterr().out
    assert "base_model_relation: merge" in told and "model.safetensors" in told
    assert REPO not in owner.repos and not (merged / "README.md").exists()
    assert not owner.paths("POST")


def test_a_second_upload_replaces_its_own_card(merged, owner):
    assert upload(merged, "--license", "mit") == 0
    commits = len(owner.repos[REPO].commits)
    assert upload(merged, "--license", "mit") == 0
    assert len(owner.repos[REPO].commits) == commits  # nothing has changed
    (merged / "model.safetensors").write_bytes(tensors(model(8)))
    assert upload(merged, "--license", "apache-2.0") == 0
    assert card_of(owner)[0]["license"] == "apache-2.0"
    assert owner.repos[REPO].files["model.safetensors"] == tensors(model(8))


def test_a_card_on_the_hub_that_was_edited(merged, owner, capsys):
    assert upload(merged, "--license", "mit") == 0
    repo = owner.repos[REPO]
    edited = repo.files["README.md"].replace(b"## Plan", b"## Our plan")
    repo.commit({**repo.files, "README.md": edited})
    (merged / "model.safetensors").write_bytes(tensors(model(8)))
    before = repo.refs["main"]
    assert upload(merged, "--license", "mit") == 2
    assert "--keep_card" in capsys.readouterr().err and repo.refs["main"] == before
    assert upload(merged, "--license", "mit", "--keep_card") == 0
    assert repo.files["README.md"] == edited
    assert repo.files["model.safetensors"] == tensors(model(8))


def test_a_card_beside_the_model_that_was_edited(merged, owner, capsys):
    (merged / "README.md").write_bytes(card("mit", language="it"))
    assert upload(merged, "--license", "mit") == 2
    assert str(merged / "README.md") in capsys.readouterr().err and REPO not in owner.repos
    assert upload(merged, "--license", "mit", "--keep_card") == 0
    assert (merged / "README.md").read_bytes() == card("mit", language="it")
    assert owner.repos[REPO].files["README.md"] == card("mit", language="it")


def test_marks_of_cards():
    text = marked("---\nlicense: mit\n---\n# A\n")
    assert not is_edited(text) and not is_edited(text.replace("\n", "\r\n"))
    assert is_edited(text.replace("# A", "# B")) and is_edited("# A\n") and is_edited("")


def package(path, **changes):
    """Write a zip file as espnet2.bin.pack does."""
    described = {
        "files": {"s2t_model_file": "exp/model.pth"},
        "yaml_files": {"s2t_train_config": "exp/config.yaml"},
    }
    files = {
        "meta.yaml": yaml.safe_dump(described),
        "exp/model.pth": b"weights",
        "exp/config.yaml": "token_list: []\n",
        **changes,
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            if content is not None:
                archive.writestr(name, content)
    return path


def test_a_package_of_espnet(merged, owner, tmp_path, capsys):
    path = package(tmp_path / "lors.asr.zip")
    record = ("--record", "merged/merge.yaml", "--license", "mit", "--langs", "sv-SE")
    assert upload(path, *record) == 0
    files = owner.repos[REPO].files
    assert files["exp/model.pth"] == b"weights" and "meta.yaml" in files
    data, body = card_of(owner)
    assert data["library_name"] == "espnet" and f'from_pretrained("{REPO}"' in body
    assert 'lang_sym="<swe>", task_sym="<asr>")[0][3])' in body  # the text without the prompt
    usage = re.search(r"```python\n(.*?)```", body, re.DOTALL)[1]
    assert usage.startswith("# pip install espnet espnet_model_zoo; speech.wav: 16 kHz, mono\n")
    assert is_edited(files["README.md"].decode()) is False
    assert (tmp_path / "lors.asr.README.md").read_bytes() == files["README.md"]
    assert not [*tmp_path.glob(".*.unpacked")]
    for changes, fact in (
        ({"meta.yaml": None}, "meta.yaml"),
        ({"exp/model.pth": None}, "model.pth"),
        ({"../outside": b"x"}, "../outside"),
    ):
        wrong = package(tmp_path / "wrong.zip", **changes)
        assert upload(wrong, *record, repo="org/other") == 1
        assert fact in capsys.readouterr().err and "org/other" not in owner.repos


def test_a_package_with_absolute_paths(merged, owner, tmp_path, capsys):
    """As espnet2.bin.pack makes it of files outside of its directory."""
    described = {
        "files": {"s2t_model_file": "/scratch/exp/model.pth"},
        "yaml_files": {"s2t_train_config": "/scratch/exp/config.yaml"},
    }
    path = package(tmp_path / "lors.asr.zip", **{"meta.yaml": yaml.safe_dump(described)})
    assert upload(path, "--record", "merged/merge.yaml", "--license", "mit") == 1
    told = capsys.readouterr().err
    assert "/scratch/exp/model.pth" in told and "pack it again" in told
    assert REPO not in owner.repos


def test_a_full_disk_is_told_with_its_folder(merged, owner, tmp_path, capsys):
    path = package(tmp_path / "lors.asr.zip", **{"exp/model.pth": b"x" * 5000})
    with largest_file(1000):
        assert upload(path, "--record", "merged/merge.yaml") == 1
    message = capsys.readouterr().err
    assert "File too large" in message and f"where: {tmp_path}" in message
    assert not [*tmp_path.glob(".*.unpacked")]


@pytest.mark.parametrize("config", ["whisper_conf: {}\n", "wav2vec2_conf: {}\n"])
def test_a_package_that_espnet_does_not_load(config, merged, owner, tmp_path, capsys):
    path = package(tmp_path / "lors.asr.zip", **{"exp/config.yaml": config})
    assert upload(path, "--record", "merged/merge.yaml", "--license", "mit") == 1
    told = capsys.readouterr().err
    assert str(path) in told and "token_list" in told and "export-whisper" in told
    assert not owner.requests


def test_a_sharded_model(merged, owner, capsys):
    state = model(7)
    (merged / "model.safetensors").unlink()
    shards = {f"model-{n}-of-2.safetensors": {k: state[k]} for n, k in enumerate(list(state)[:2])}
    for name, held in shards.items():
        (merged / name).write_bytes(tensors(held))
    index = {"weight_map": {key: name for name, held in shards.items() for key in held}}
    (merged / "model.safetensors.index.json").write_text(json.dumps(index))
    first = next(iter(shards))
    content = (merged / first).read_bytes()
    for damage in (content[:-8], None):
        (merged / first).unlink()
        if damage is not None:
            (merged / first).write_bytes(damage)
        assert upload(merged, "--license", "mit") == 1
        assert first in capsys.readouterr().err and REPO not in owner.repos
    (merged / first).write_bytes(content)
    assert upload(merged, "--license", "mit") == 0
    assert {*shards, "model.safetensors.index.json"} <= owner.repos[REPO].files.keys()


def test_files_that_do_not_belong_to_the_model(merged, owner, capsys):
    others = ["optimizer.pt", "training_args.bin", "trainer_state.json", "pytorch_model.bin"]
    for name in others:
        (merged / name).write_bytes(b"x")
    (merged / "checkpoint-9").mkdir()
    kept = ["generation_config.json", "tokenizer.json", "vocab.json", "merges.txt", "LICENSE"]
    for name in kept:
        (merged / name).write_text("{}")
    assert upload(merged, "--license", "mit") == 0
    told = capsys.readouterr().err
    files = owner.repos[REPO].files.keys()
    assert files >= set(kept) and files.isdisjoint(others)
    assert all(told.count(name) == 1 for name in (*others, "checkpoint-9"))


def test_wrong_models_and_names(merged, owner, tmp_path, capsys):
    for name in ("merged", "org/merged@main", "org/merged/x", "org", "a b/c"):
        with pytest.raises(Exception, match="organisation/model"):
            repo_called(name)
        assert upload(merged, repo=name) == 2
    assert upload(tmp_path / "none") == 2
    assert upload(tmp_path / "merged/model.pth") == 1  # a file of torch.save
    assert "export-whisper" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert upload(tmp_path / "empty", "--record", "merged/merge.yaml") == 1
    (merged / "merge.yaml").unlink()
    (tmp_path / "merged/merge.yaml").unlink()
    assert upload(merged) == 2 and "--record" in capsys.readouterr().err
    assert not owner.paths("POST")


def test_refused_uploads(merged, owner, monkeypatch, capsys):
    for token, fact in ((OTHER_TOKEN, "rights"), ("hf_expired", "Invalid credentials")):
        monkeypatch.setenv("HF_TOKEN", token)
        assert upload(merged, "--license", "mit") == 1
        assert fact in capsys.readouterr().err and REPO not in owner.repos
    monkeypatch.delenv("HF_TOKEN")
    assert upload(merged, "--license", "mit") == 1 and REPO not in owner.repos
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert upload(merged, "--license", "mit", "--private") == 0 and owner.repos[REPO].private


def test_a_private_upload_to_a_public_model(merged, owner, capsys):
    repo = owner.add(REPO, {"x.txt": b"x"})
    assert upload(merged, "--license", "mit", "--private") == 2
    assert f"{REPO} on the Hub" in capsys.readouterr().err
    assert repo.files.keys() == {"x.txt"} and not (merged / "README.md").exists()
    repo.private = True
    assert upload(merged, "--license", "mit", "--private") == 0
    assert "config.json" in repo.files


@pytest.mark.parametrize("where", ["create_commit", "model_info"])
def test_an_error_of_the_storage_without_a_class_of_its_own(where, merged, monkeypatch, capsys):
    """The storage Xet raises RuntimeError, without a cause."""
    import huggingface_hub

    def broken(*_, **__):
        raise RuntimeError("Data processing error: connection reset\nmore")

    monkeypatch.setattr(huggingface_hub.HfApi, where, broken)
    assert upload(merged, "--license", "mit") == 1
    told = capsys.readouterr().err
    assert REPO in told and "connection reset" in told and "Traceback" not in told


def test_an_upload_that_breaks_leaves_the_model_as_it_was(merged, owner, capsys):
    assert upload(merged, "--license", "mit") == 0
    repo = owner.repos[REPO]
    before = repo.refs["main"]
    (merged / "model.safetensors").write_bytes(tensors(model(8)))
    owner.faults.append(Fault("PUT /lfs/", 403, times=9))
    assert upload(merged, "--license", "mit") == 1 and repo.refs["main"] == before
    owner.faults.clear()

    def interfere():
        repo.commit({**repo.files, "other": b"x"})

    owner.before = {"preupload": interfere}  # somebody else commits during the upload
    assert upload(merged, "--license", "mit") == 1
    assert "in the meantime" in capsys.readouterr().err
    assert repo.files["other"] == b"x" and repo.files["model.safetensors"] != tensors(model(8))
    assert upload(merged, "--license", "mit") == 0
    assert repo.files["model.safetensors"] == tensors(model(8)) and repo.files["other"] == b"x"


def test_an_upload_that_is_cut(merged, owner, capsys):
    """The files have arrived, and the answer to the commit has not."""
    owner.faults.append(Fault("POST .*/commit/", 0))
    assert upload(merged, "--license", "mit") == 1
    told = capsys.readouterr().err
    assert REPO in told and "what has arrived is not sent again" in told
    assert "a download" not in told
    sent = len(owner.paths("PUT"))
    assert sent and upload(merged, "--license", "mit") == 0
    assert len(owner.paths("PUT")) == sent
    assert owner.repos[REPO].files["model.safetensors"] == tensors(model(7))


def test_the_record_of_the_directory_in_which_the_command_is_called(
    merged, owner, monkeypatch, capsys
):
    (merged / "merge.yaml").unlink()  # that of the merged model is in the folder above
    monkeypatch.chdir(merged)
    assert upload(".", "--license", "mit", "--dry_run") == 0
    assert "base_model_relation: merge" in capsys.readouterr().out


def test_metadata_that_the_hub_refuses(merged, owner, capsys):
    (merged / "README.md").write_text("---\nlicense: [mit]\n---\n# Mine\n")
    assert upload(merged, "--license", "mit", "--keep_card") == 1
    assert "license must be a text" in capsys.readouterr().err
    assert "model.safetensors" not in owner.repos[REPO].files


def test_other_model_files_on_the_hub_are_told(merged, owner, capsys):
    owner.add(REPO, {"pytorch_model.bin": b"old", "de/model.safetensors": b"x"})
    assert upload(merged, "--license", "mit") == 0
    told = capsys.readouterr().err
    assert "pytorch_model.bin" in told and "de/model.safetensors" not in told
    assert owner.repos[REPO].files["pytorch_model.bin"] == b"old"


def test_the_base_model_of_a_recipe(owner, tmp_path, monkeypatch):
    """Local base models have the names that the import has recorded; no other path is shown."""
    record = {
        "model": "model.pth",
        "lors_version": "0.1.0",
        "plan": {
            **{"base": "exp/base/model.pth", "experts": ["exp/expert/de_asr/model.pth"]},
            **{"method": "lors", "params": {"rank": 7}, "weights": [1.0], "seed": 0},
        },
        "fingerprints": {"base": "a", "experts": ["b"]},
    }
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exp/base").mkdir(parents=True)
    owner.add("openai/whisper-large-v3-turbo", {"README.md": card("mit")})
    owner.add("org/base", {"README.md": card("mit")})
    commit = owner.repos["org/base"].refs["main"]
    for source, expected in (
        ({"base_model": "turbo", "source": "https://openai/turbo.pt"},
         "openai/whisper-large-v3-turbo"),
        ({"base_model": "org/base", "source": f"hf://org/base@{commit}"}, "org/base"),
        ({"base_model": "/home/anna/my.pt", "source": "/home/anna/my.pt"}, None),
    ):  # fmt: skip
        (tmp_path / "exp/base/source.yaml").write_text(yaml.safe_dump(source))
        text = model_card(record, REPO, "transformers", licence="mit")
        data = yaml.safe_load(text.split("---\n")[1])
        assert data.get("base_model") == (None if expected is None else [expected])
        assert "anna" not in text and "de_asr" in text


@pytest.mark.parametrize(
    ("base_model", "source", "expected"),
    [
        ("tiny.en", "https://openai/tiny.en.pt", "openai/whisper-tiny.en"),
        ("base", "a-package 1.0.0, another 1.0.0", "openai/whisper-base"),
        ("base", "/home/anna/base", None),  # a directory of this name
        ("xls-r-300m", "/home/anna/xls-r-300m", None),
        ("xls-r-300m", "xls-r-300m", None),
    ],
)
def test_only_official_whispers_are_named(
    base_model, source, expected, owner, tmp_path, monkeypatch
):
    """Whether or not the local model is still there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exp/base").mkdir(parents=True)
    record = {"base_model": base_model, "source": source}
    (tmp_path / "exp/base/source.yaml").write_text(yaml.safe_dump(record))
    [found, _] = sources_of({"base": "exp/base/model.pth", "experts": ["de.pth"]})
    assert (found.name and found.name.repo) == expected


def test_local_paths_are_not_taken_for_models_of_the_hub(owner, tmp_path, monkeypatch):
    """Another directory than that of the merge, or models that are gone."""
    monkeypatch.chdir(tmp_path)
    for name in ("experts/whisper-de", "experts/base"):
        owner.add(name, {"README.md": card("mit")})
    plan = {"base": "experts/base", "experts": ["experts/whisper-de"], "onto": "experts/x/y"}
    found = sources_of(plan)
    assert [source.title for source in found] == ["base", "whisper-de", "y"]
    assert {(source.name, source.licence) for source in found} == {(None, None)}
    assert not owner.requests


def test_records_without_a_plan(owner):
    with refusal("plan"):
        model_card({"model": "model.pth"}, REPO, "transformers")
