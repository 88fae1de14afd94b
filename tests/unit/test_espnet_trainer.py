"""A training that is killed before any of its operations on files, and resumes."""

import argparse
import ctypes
import dataclasses
import io
import multiprocessing
import os
import pickle
import random
import signal
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import ClassVar

import loralib
import pytest
import torch
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.train.abs_espnet_model import AbsESPnetModel
from espnet2.train.distributed_utils import DistributedOption
from espnet2.train.trainer import Trainer, autocast_args

from lors.models.espnet_trainer import (
    ResumableTask,
    ResumableTrainer,
    atomic_saves,
    keep_adapters_apart,
    read_checkpoint,
)
from lors.models.subnetworks import Options
from tests.full_disk import largest_file
from tests.refusal import refusal
from tests.threads import one_thread

pytestmark = pytest.mark.espnet

STEPS = 2  # of an epoch
ACCURACY = [0.1, 0.4, 0.3, 0.4, 0.2]
"""On dev after each epoch: the second is the best, the fourth is as good but later."""
OPTIONS = {
    **{field.name: False for field in dataclasses.fields(Options)},
    **{"ngpu": 0, "resume": True, "train_dtype": "float32", "accum_grad": 1, "log_interval": 10},
    **{"grad_clip": 5.0, "grad_clip_type": 2.0, "adapter": "lora", "save_strategy": "all"},
    **{"max_epoch": len(ACCURACY), "seed": 1, "patience": None, "keep_nbest_models": 1},
    **{"nbest_averaging_interval": 0, "early_stopping_criterion": ["valid", "acc", "max"]},
    **{"best_model_criterion": [["valid", "acc", "max"]], "ddp_comm_hook": None},
    **{"val_scheduler_criterion": ["valid", "loss"], "wandb_model_log_interval": -1},
}


class Model(AbsESPnetModel):
    """A matrix with an adapter; the accuracy is that of the list ACCURACY, not measured."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.register_buffer("weight", torch.randn(3, 3))
        self.lora_A = torch.nn.Parameter(torch.randn(3, 3))
        self.register_buffer("lora_steps", torch.tensor(0))

    def forward(self, x, **_):
        loss = ((x @ (self.weight + self.lora_A) - x.flip(1)) ** 2).mean()
        self.lora_steps += self.training
        accuracy = ACCURACY[max(0, int(self.lora_steps) // STEPS - 1)]
        stats = {"loss": loss.detach(), "acc": torch.tensor(accuracy)}
        return loss, stats, torch.tensor(float(len(x)))

    def collect_feats(self, **_):
        return {}


@pytest.fixture(autouse=True)
def _one_thread():
    """Also for the forked processes: several threads of the parent would not be in them."""
    with one_thread():
        yield


class Batches(AbsIterFactory):
    def build_iter(self, epoch, shuffle=None):
        numbers = torch.Generator().manual_seed(epoch)
        return [(["id"], {"x": torch.randn(4, 3, generator=numbers)}) for _ in range(STEPS)]


def train(out: Path, trainer=ResumableTrainer, **options) -> None:
    model = Model()
    args = {"optim": "adam", "optim_conf": {"lr": 0.01}, "use_adapter": False, **OPTIONS, **options}
    args |= {"sharded_ddp": False, "exclude_weight_decay": False}
    optimizers = ResumableTask.build_optimizers(argparse.Namespace(**args), model)
    out.mkdir(exist_ok=True)
    trainer.run(
        model=model,
        optimizers=optimizers,
        schedulers=[None],
        train_iter_factory=Batches(),
        valid_iter_factory=Batches(),
        plot_attention_iter_factory=None,
        trainer_options=Options(**{**OPTIONS, "output_dir": out, **options}),
        distributed_option=DistributedOption(),
    )


def killed_before(number: int, out: Path, options: dict) -> None:
    """Train, and die before the operation on files of `out` with this number (from 0)."""
    left = [number]

    def watch(event, arguments):
        changes = event in ("os.rename", "os.remove", "os.symlink")
        if changes or (event == "open" and arguments[2] & os.O_CREAT):
            path = arguments[1] if event == "os.symlink" else arguments[0]
            if isinstance(path, str | os.PathLike) and str(out) in str(path):
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1

    sys.addaudithook(watch)
    train(out, **options)


def is_killed(number: int, out: Path, options: dict) -> bool:
    """Return whether :func:`killed_before` killed the training before its end."""
    process = multiprocessing.get_context("fork").Process(
        target=killed_before, args=(number, out, options)
    )
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def content(out: Path) -> dict:
    """All files of a training: links with their targets, models with their values."""
    found = {}
    for path in out.iterdir():
        if path.is_symlink():
            found[path.name] = str(path.readlink())
        else:
            model = read_checkpoint(path)[0] if path.name == "checkpoint.pth" else torch.load(path)
            found[path.name] = {name: value.tolist() for name, value in model.items()}
    return found


KINDS = {
    "whole model": {},
    "adapter": {"use_adapter": True, "save_strategy": "adapter_only"},
    "several kept": {"keep_nbest_models": [1, 2]},
    "early stop": {"patience": 1},
}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Skip fsync: the writes of a killed process are never lost, only those of a power cut are."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.mark.parametrize("kind", KINDS)
def test_killed_anywhere_it_ends_with_the_same_files(tmp_path, kind):
    options = KINDS[kind]
    train(tmp_path / "espnet", Trainer, **options)
    expected = content(tmp_path / "espnet")
    assert expected["valid.acc.best.pth"] == "2epoch.pth"
    assert ("lora_A" in expected["2epoch.pth"], "weight" in expected["2epoch.pth"]) == (
        True,
        kind != "adapter",
    )
    last = "4epoch.pth" if kind == "early stop" else "5epoch.pth"
    assert expected["latest.pth"] == last
    rng = random.Random(kind)
    # The whole model is killed before every operation, the other kinds where they may differ.
    number, step = (0, 1) if kind == "whole model" else (rng.randrange(3), 3)
    while is_killed(number, out := tmp_path / str(number), options):
        # A second kill soon after: while it repeats the steps that the first kill cut off.
        is_killed(rng.randrange(8), out, options)
        train(out, **options)
        assert content(out) == expected, f"killed before operation {number}"
        number += step
    assert content(out) == expected
    assert number > 20  # else the operations of the training are not seen


def test_models_of_a_training_before_this_one_are_not_taken(tmp_path):
    """Neither is an incomplete model, as ESPnet alone leaves it."""
    train(tmp_path / "whole")
    out = tmp_path / "out"
    train(out, max_epoch=2)
    (out / "2epoch.pth").write_bytes((tmp_path / "whole/5epoch.pth").read_bytes()[:-500])
    train(out)
    assert content(out) == content(tmp_path / "whole")


def test_saving_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"a": torch.ones(3)}, path)
    before = torch.save
    with pytest.raises((AttributeError, pickle.PicklingError)), atomic_saves():
        torch.save({"a": torch.zeros(3), "b": lambda: None}, path)
    assert torch.save is before
    with pytest.raises((AttributeError, pickle.PicklingError)), atomic_saves():
        torch.save(obj={"a": torch.zeros(3), "b": lambda: None}, f=path)
    assert torch.load(path)["a"].tolist() == [1, 1, 1] and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_with_the_file(tmp_path):
    """torch.save has a RuntimeError of its own for it."""
    path = tmp_path / "x.pth"
    with pytest.raises(OSError) as caught, largest_file(1000), atomic_saves():
        torch.save({"a": torch.zeros(10_000)}, path)
    assert caught.value.filename == str(path) and list(tmp_path.iterdir()) == []


class Code:
    def __reduce__(self):
        return (print, ("code in a checkpoint was run",))


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path, capsys):
    out = tmp_path / "out"
    train(out, max_epoch=1)
    checkpoint = out / "checkpoint.pth"
    torch.save({**torch.load(checkpoint, weights_only=False), "scaler": Code()}, checkpoint)
    with refusal(checkpoint):
        train(out)
    assert "was run" not in capsys.readouterr().out
    with zipfile.ZipFile(checkpoint) as archive:
        assert archive.testzip() is None  # it is left as it was
    checkpoint.unlink()
    train(out)
    assert content(out)["valid.acc.best.pth"] == "2epoch.pth"


def damaged(content, rng):
    """Change the directory of the archive, or values without their checksum, or cut the file."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = [info for info in archive.filelist if "/data/" in info.filename]
        directory = archive.start_dir
    info = max(infos, key=lambda info: info.file_size)
    changed = bytearray(content)
    change = rng.choice(("offset", "value", "cut"))
    if change == "offset":
        name = info.filename.encode()
        place = content.index(name, directory) - 4  # the offset stands before the name
        changed[place] ^= 64
    elif change == "value":
        lengths = struct.unpack_from("<2H", content, info.header_offset + 26)
        changed[info.header_offset + 30 + sum(lengths)] ^= 1
    else:
        del changed[rng.randrange(len(content)) :]
    return bytes(changed)


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_checkpoint_is_refused(tmp_path, seed):
    """torch alone would read other values: it takes them from any place that the file names."""
    train(tmp_path, max_epoch=1)
    checkpoint = tmp_path / "checkpoint.pth"
    content = damaged(checkpoint.read_bytes(), random.Random(seed))
    checkpoint.write_bytes(content)
    with refusal(checkpoint) as caught:
        train(tmp_path)
    assert "start this training over" in caught.value.hint
    assert checkpoint.read_bytes() == content and not (tmp_path / "2epoch.pth").exists()


def test_loaded_adapters_are_not_taken_for_added_up():
    layer = loralib.Linear(3, 3, r=1, lora_alpha=2)  # as ESPnet makes it
    model = torch.nn.Sequential(layer).eval()
    weight = model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].lora_B.fill_(1.0)  # loaded
    keep_adapters_apart(model)
    model.train()
    assert torch.equal(model[0].weight, weight)
    model.eval()
    torch.testing.assert_close(model[0].weight, weight + 2 * model[0].lora_B @ model[0].lora_A)


class More(Model):
    """Has parameters and running statistics beside the adapter."""

    def __init__(self):
        super().__init__()
        self.output = torch.nn.Linear(3, 3)
        self.norm = torch.nn.BatchNorm1d(3)

    def forward(self, x, **_):
        return super().forward(self.norm(self.output(x)))


@pytest.mark.parametrize("kind", ["whole model", "adapter"])
def test_nothing_is_trained_that_is_not_saved(tmp_path, monkeypatch, kind):
    before = More().state_dict()
    monkeypatch.setattr(sys.modules[__name__], "Model", More)
    made: list[More] = []
    monkeypatch.setattr(More, "__init__", kept(More.__init__, made))
    train(tmp_path, **KINDS[kind])
    after = made[0].state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    saved = set(torch.load(tmp_path / "5epoch.pth", weights_only=True))
    counters = {"norm.num_batches_tracked"}
    assert "lora_A" in changed and changed - counters <= saved
    assert ("output.weight" in changed, "norm.running_mean" in changed) == (kind != "adapter",) * 2


def kept(make, made: list):
    """Return `make` that adds what it makes to a list."""

    def wrapped(self):
        make(self)
        made.append(self)

    return wrapped


class Matrix(Model):
    """A matrix that is a parameter; each forward pass keeps it as it is and as it is used."""

    seen: ClassVar[list] = []

    def forward(self, x, **_):
        used = torch.nn.functional.linear(torch.eye(3), self.lora_A)
        self.seen.append((self.lora_A.detach().clone(), used.detach().T))
        loss, *rest = super().forward(x)
        return loss + used.float().sum(), *rest


def test_mixed_precision_uses_the_weights_of_the_step(tmp_path, monkeypatch):
    """In training and on dev; ESPnet's own context inside that for CPUs keeps converted weights."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(sys.modules[__name__], "Model", Matrix)
    monkeypatch.setattr(Matrix, "seen", [])
    train(tmp_path / "out", use_amp=True, max_epoch=2)
    assert len(Matrix.seen) == 2 * 2 * STEPS
    for weights, used in Matrix.seen:
        assert used.dtype == torch.bfloat16
        assert torch.equal(used, weights.bfloat16())
    assert not torch.equal(Matrix.seen[0][1], Matrix.seen[-1][1])


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, None)])
def test_mixed_precision_on_a_gpu_does_not_emulate_bfloat16(tmp_path, monkeypatch, native, dtype):
    seen = []
    monkeypatch.setattr(
        Trainer, "run", classmethod(lambda cls, **_: seen.append({**autocast_args}))
    )
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: including_emulation or native,
    )
    monkeypatch.setitem(autocast_args, "dtype", torch.bfloat16)
    train(tmp_path / "out", use_amp=True, ngpu=1)
    assert [found.get("dtype") for found in seen] == [dtype]


STEPS_WITH_LARGE_BLOCKS = """
import resource, sys
import torch
from lors.models.espnet_trainer import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for step in range(10):
    if step == 6:  # the heap grows once more in one of the first steps
        began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(64 << 20, dtype=torch.uint8) for _ in range(2)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - began)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_freed_memory_is_kept_for_the_next_step():
    faults = {}
    for choice in ("keep", "default"):
        command = [sys.executable, "-c", STEPS_WITH_LARGE_BLOCKS, choice]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        faults[choice] = int(done.stdout.split()[-1])
    pages = 4 * 2 * (64 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert faults["keep"] < min(faults["default"], pages / 100)
