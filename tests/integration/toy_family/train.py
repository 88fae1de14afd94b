"""The toy family's own training program, with ESPnet's options."""

from __future__ import annotations

import argparse
from pathlib import Path

import soundfile
import torch
import yaml

from tests.integration.toy_family.model import features, new_model

parser = argparse.ArgumentParser()
for name in ("config", "output_dir", "collect_stats", "resume", "use_preprocessor", "ngpu"):
    parser.add_argument(f"--{name}")
parser.add_argument("--multiprocessing_distributed")
for split in ("train", "valid"):
    parser.add_argument(f"--{split}_data_path_and_name_and_type", action="append")
    parser.add_argument(f"--{split}_shape_file", action="append")
args = parser.parse_args()
out = Path(args.output_dir)


def table(path: str) -> dict[str, str]:
    return dict(line.rstrip("\n").split(" ", 1) for line in Path(path).read_text().splitlines())


if args.collect_stats:
    for split in ("train", "valid"):
        ids = table(getattr(args, f"{split}_shape_file")[0])
        (out / split).mkdir()
        for name in ("speech_shape", "text_shape"):
            (out / split / name).write_text("".join(f"{i} 1\n" for i in ids))
    raise SystemExit

config = yaml.safe_load(Path(args.config).read_text())
conf = config["toy_conf"]
wav, text = (table(value.split(",")[0]) for value in args.train_data_path_and_name_and_type)
model = new_model(conf)
for path in config["init_param"]:
    model.load_state_dict(torch.load(path, weights_only=True))
prompts = {i: line.split()[0] for i, line in text.items()}
heard = features(
    [soundfile.read(wav[i])[0] for i in text], [prompts[i] for i in text], conf["langs"]
)
said = torch.tensor([conf["words"].index(line.split()[1]) for line in text.values()])
optimizer = torch.optim.SGD(model.parameters(), lr=config["lr"])
for step in range(config["num_iters_per_epoch"]):
    loss = torch.nn.functional.cross_entropy(model["words"](heard), said)
    print(f"step {step}: loss {loss.item():.4f}")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
torch.save(model.state_dict(), out / "1epoch.pth")
(out / "config.yaml").write_text(yaml.safe_dump(config))
(out / "valid.acc.best.pth").symlink_to("1epoch.pth")
