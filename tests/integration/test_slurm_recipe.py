"""The mini recipe on a real Slurm has the same results as on this machine alone."""

from __future__ import annotations

import re

import pytest

from lors.fileio import read_json
from tests.integration.recipe import OPTIONS, Recipe, same, state

pytestmark = [pytest.mark.espnet, pytest.mark.slow]

ALL_CORES = ["--nodes=2", "--ntasks=2", "--cpus-per-task=8"]
ONE_EXPERT = ["--langs", "de", "--tasks", "asr", *OPTIONS[2:]]
ONE_EXPERT += ["--stage", "experts", "--stop_stage", "experts"]


@pytest.fixture
def on_slurm(cluster):
    """The environment of a recipe on Slurm; all jobs are cancelled when the test ends."""
    yield {**cluster.environment, "LORS_CMD_BACKEND": "slurm"}
    cluster.ask("scancel", "--user=root")
    cluster.wait_until(lambda: not cluster.jobs())


def results(recipe: Recipe) -> dict[str, object]:
    """Return all scores and chosen parameters of a run, without measured seconds."""
    files = [path for name in ("tune", "scores") for path in (recipe.exp / name).rglob("*.json")]
    files = [path for path in files if path.name != "cost.json"]
    return {str(path.relative_to(recipe.exp)): read_json(path) for path in files}


def test_search_merge_inference_and_scores(reference, cluster, on_slurm, tmp_path):
    """With the driver as a job too."""
    models = ("base", "stats", "expert", "joint", "sequential")
    recipe = reference.recipe.fork(tmp_path / "mini_covost", *models)
    command = [*OPTIONS, "--stage", "tune", "--submit", "true"]
    ended = recipe.run(*command, environment=on_slurm)
    assert ended.status == 0, ended.stderr
    job = re.search(r"submitted as job (\d+)", ended.stderr)[1]
    assert f"scancel {job}" in ended.stderr
    assert any(line.startswith(f"{job}_1 ") for line in cluster.jobs())
    cluster.wait_until(lambda: not cluster.jobs(), 600)
    log = (recipe.exp / "log/driver.log").read_text()
    assert log.endswith("with status 0\n"), log
    for name in ("tune.2", "merge", "inference.1"):
        text = (recipe.exp / f"log/{name}.log").read_text()
        assert ", Slurm job " in text and text.endswith("with status 0\n"), name
    assert results(recipe) == results(reference.recipe)
    for model in (reference.recipe.exp / "merged").iterdir():
        assert same(state(recipe.exp / "merged" / model.name), state(model)), model
    assert {path.name for path in (recipe.exp / "packed").iterdir()} == {
        path.name for path in (reference.recipe.exp / "packed").iterdir()
    }


def test_cancelled_driver_takes_its_jobs_along(reference, cluster, on_slurm, tmp_path):
    recipe = reference.recipe.fork(tmp_path / "mini_covost", "base", "stats")
    ended = recipe.run(*ONE_EXPERT, "--submit", "true", environment=on_slurm)
    job = re.search(r"submitted as job (\d+)", ended.stderr)[1]
    cluster.wait_until(lambda: len(cluster.jobs()) == 2, 120)
    cluster.ask("scancel", job)
    cluster.wait_until(lambda: not cluster.jobs())
    assert not (recipe.exp / "expert/de_asr/.done").exists()
    assert read_json(recipe.exp / "recipe.json")["status"] != 0


def test_preempted_training_ends_with_the_same_model(reference, cluster, on_slurm, tmp_path):
    recipe = reference.recipe.fork(tmp_path / "mini_covost", "base", "stats")
    # The same number of threads as in the reference training, because sums depend on it.
    settings = (recipe / "cmd.sh").read_text().replace("job_cores=4", "job_cores=1")
    (recipe / "cmd.sh").unlink()  # a link to the one that all recipes share
    (recipe / "cmd.sh").write_text(settings)
    expert = recipe.exp / "expert/de_asr"
    urgent = ["sbatch", "--partition=urgent", "--output=/dev/null"]
    ended = recipe.run_and(
        lambda _: cluster.ask(*urgent, *ALL_CORES, "--wrap=sleep 1"),
        *ONE_EXPERT,
        environment=on_slurm,
        when=(expert / "latest.pth").exists,
    )
    assert ended.status == 0, ended.stderr
    log = (recipe.exp / "log/train_expert.1.log").read_text()
    assert "Ended by Slurm (SIGTERM)" in log and log.count("# Started at") == 2
    assert "training was resumed" in (expert / "train.log").read_text()
    assert same(state(expert), state(reference.recipe.exp / "expert/de_asr"))


def test_training_on_two_nodes(reference, on_slurm, tmp_path):
    recipe = reference.recipe.fork(tmp_path / "mini_covost", "base", "stats")
    ended = recipe.run(*ONE_EXPERT, "--num_nodes", "2", environment=on_slurm)
    assert ended.status == 0, ended.stderr
    expert = recipe.exp / "expert/de_asr"
    script = (expert / "run.sh").read_text()
    assert "torch.distributed.run --node_rank" in script
    assert "--nnodes 2 --nproc_per_node 1" in script
    assert ":0/2]" in (expert / "train.log").read_text(), "not two processes"
    one, two = state(reference.recipe.exp / "expert/de_asr"), state(expert)
    assert one.keys() == two.keys() and not same(one, two)
