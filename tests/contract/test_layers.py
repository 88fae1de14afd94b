"""The layers of lors: a module imports only from the layers above it, so that one can read, test
and use the upper ones (merging above all) without the lower ones."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# From the top: a module may import from earlier lines, and a package from itself. Names of one
# line, which are siblings, may not import each other.
LAYERS = [
    {"lors", "lors.errors"},
    {
        "lors.liveness",
        "lors.log",
        "lors.fileio",
        "lors.launch",
        "lors.parallel",
        "lors.processes",
        "lors.whisper_package",
    },
    {"lors.config", "lors.registry", "lors.text", "lors.datadir", "lors.expdir", "lors.vocabulary"},
    {
        "lors.checkpoint",
        "lors.datadir_tools",
        "lors.prune",
        "lors.low_rank",
        "lors.subspace",
        "lors.signs",
        "lors.policy",
        "lors.grid",
        "lors.naming",
        "lors.job_log",
        "lors.run_record",
        "lors.whisper_tokenizer",
    },
    {
        "lors.checkpoint_writer",
        "lors.task_vector",
        "lors.merge_methods",
        "lors.calibration",
        "lors.adapter",
        "lors.whisper_dims",
        "lors.status",
    },
    {"lors.expert"},
    {"lors.merge_plan", "lors.decompositions", "lors.whisper_export"},
    {"lors.merge_record", "lors.merge_engine"},
    {"lors.merge", "lors.score", "lors.data", "lors.models"},
    {"lors.train", "lors.inference", "lors.results", "lors.plots", "lors.pack", "lors.inspection"},
    {"lors.tune"},
    {"lors.bin"},
]
# What `pip install lors` brings: import names of the base requirements in setup.py.
MERGING = {"torch", "numpy", "scipy", "safetensors", "yaml", "tqdm", "threadpoolctl", "xxhash"}


def module_name(path, root):
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source, module, is_package):
    """The absolute names of all that a module imports, anywhere in its code."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".") if is_package else module.split(".")[:-1]
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            # `from lors import merge` imports a module, `from lors.merge import x` perhaps one.
            names.update(f"{origin}.{alias.name}" for alias in node.names)
    return names


def all_modules(root):
    """Every module of lors with the names it imports."""
    return {
        module_name(path, root): imports_of(
            path.read_text(encoding="utf-8"), module_name(path, root), path.name == "__init__.py"
        )
        for path in sorted(root.glob("lors/**/*.py"))
    }


def unit_of(name, modules=()):
    """The entry of LAYERS that an imported name belongs to: lors.x for lors.x.y, else lors."""
    parts = name.split(".")
    unit = ".".join(parts[:2])
    known = set().union(*LAYERS) | {".".join(module.split(".")[:2]) for module in modules}
    return unit if len(parts) > 1 and unit in known else "lors"


def layer_of(unit):
    return next(number for number, layer in enumerate(LAYERS) if unit in layer)


def violations(modules):
    """Every import that the layers do not allow, as 'importer imports imported'."""
    found = []
    for module, names in modules.items():
        importer = unit_of(module, modules)
        for name in sorted(names):
            if name.split(".")[0] != "lors":
                continue
            imported = unit_of(name, modules)
            if imported != importer and layer_of(imported) >= layer_of(importer):
                found.append(f"{module} imports {name}")
    return found


def needed_by(module, modules):
    """All modules of lors that importing one of them brings, itself and their packages included."""
    needed, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        while name not in modules and "." in name:  # an imported function or class
            name = name.rpartition(".")[0]
        if name in modules and name not in needed:
            needed.add(name)
            waiting.extend(other for other in modules[name] if other.split(".")[0] == "lors")
            waiting.append(name.rpartition(".")[0])
    return needed


def third_party(modules, names):
    top = {name.split(".")[0] for module in names for name in modules[module]}
    return top - set(sys.stdlib_module_names) - {"lors"}


def test_every_module_has_a_layer():
    modules = all_modules(ROOT)
    units = {unit_of(module, modules) for module in modules}
    assert units <= set().union(*LAYERS)


def test_modules_import_only_from_above():
    assert violations(all_modules(ROOT)) == []


def test_merging_needs_only_the_base_requirements():
    modules = all_modules(ROOT)
    needed = needed_by("lors.bin.merge", modules)
    methods = {module for module in modules if module.startswith("lors.merge_methods")}
    assert {"lors.merge", "lors.checkpoint", "lors.merge_methods"} <= needed
    assert third_party(modules, needed | methods) <= MERGING


def test_exporting_needs_only_the_base_requirements():
    modules = all_modules(ROOT)
    assert third_party(modules, needed_by("lors.bin.export_whisper", modules)) <= MERGING


def test_looking_at_an_experiment_needs_no_package():
    """utils/status starts fast, and with any Python."""
    modules = all_modules(ROOT)
    needed = needed_by("lors.bin.status", modules) | needed_by("lors.bin.record_run", modules)
    assert "lors.status" in needed and third_party(modules, needed) == set()


def test_merging_knows_no_model_family():
    needed = needed_by("lors.merge", all_modules(ROOT))
    assert not {module for module in needed if module.startswith(("lors.models", "lors.train"))}


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("lors.merge", "import lors.models.espnet_s2t", ["lors.models.espnet_s2t"]),
        ("lors.merge", "from lors.models import espnet_s2t", ["lors.models.espnet_s2t"]),
        ("lors.merge", "from lors import models", ["lors.models"]),
        ("lors.merge", "def f():\n    from .score import x", ["lors.score.x"]),
        ("lors.merge_methods.ties", "from ..task_vector import T", ["lors.task_vector.T"]),
        ("lors.fileio", "from lors.log import x", ["lors.log.x"]),
        ("lors.errors", "import lors.bin.merge", ["lors.bin.merge"]),
        ("lors.merge_methods.ties", "from lors.merge_methods import x; import lors.prune", []),
        ("lors.merge", "from lors import __version__; import torch, json", []),
    ],
)
def test_the_check_finds_forbidden_imports(module, source, expected):
    modules = {module: imports_of(source, module, is_package=False)}
    assert violations(modules) == [f"{module} imports {name}" for name in expected]


def test_the_check_follows_imports():
    modules = {
        "lors": set(),
        "lors.bin": set(),
        "lors.bin.merge": {"lors.merge.run_merge"},
        "lors.merge": {"json", "lors.policy.Policy", "torch.nn"},
        "lors.policy": {"espnet2.tasks"},
        "lors.text": {"sacrebleu"},
    }
    needed = needed_by("lors.bin.merge", modules)
    assert needed == set(modules) - {"lors.text"}
    assert third_party(modules, needed) == {"torch", "espnet2"}
