#!/usr/bin/env python3
"""Draw how the packages of lors import each other, from the code, and check the order of layers.

    utils/architecture.py            print the diagram
    utils/architecture.py --write    put it into docs/architecture.md

Exits with 1 if an import goes up, or if modules import each other in a circle.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/architecture.md"
BEGIN, END = "<!-- diagram: utils/architecture.py --write -->", "<!-- end of diagram -->"
LAYERS = (
    ("bin",),
    ("page",),
    ("plots",),
    ("recipe",),
    ("models",),
    ("subnet",),
    ("merge", "export", "data"),
    ("linalg", "checkpoint", "score"),
    ("done_marker", "tasks", "whisper_package"),
    ("config", "log", "fileio", "processes"),
    ("errors",),
)
"""Packages and flat modules of lors, highest first. Each imports from lower lines only."""
WIDTH, ROW, STEP, BOX = 740, 76, 180, 36
"""Sizes of the drawing: its width, a layer, the place of a box, the height of a box."""

Imports = Mapping[str, set[str]]


def module_name(path: Path, root: Path) -> str:
    """Return the dotted name of a source file."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str, module: str, is_package: bool) -> set[str]:
    """Return the absolute names that a module imports, anywhere in its code."""
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


def all_modules(root: Path = ROOT) -> dict[str, set[str]]:
    """Return module of lors -> the names that it imports."""
    found = {}
    for path in sorted(root.glob("lors/**/*.py")):
        name = module_name(path, root)
        found[name] = imports_of(path.read_text("utf-8"), name, path.name == "__init__.py")
    return found


def units() -> set[str]:
    """Return all packages and flat modules in ``LAYERS``."""
    return {unit for layer in LAYERS for unit in layer}


def unit_of(name: str) -> str | None:
    """Return the package or flat module that holds a dotted name; None for lors itself."""
    parts = name.split(".")
    if len(parts) > 1 and parts[1] in units():
        return parts[1]
    return None


def layer_of(unit: str) -> int:
    """Return the index of the layer of a unit in ``LAYERS``."""
    return next(number for number, layer in enumerate(LAYERS) if unit in layer)


def unit_imports(modules: Imports) -> dict[str, set[str]]:
    """Return unit -> the other units that it imports from."""
    found: dict[str, set[str]] = {}
    for module, names in modules.items():
        importer = unit_of(module)
        if importer is None:
            continue
        imported = {unit_of(name) for name in names if name.split(".")[0] == "lors"}
        found.setdefault(importer, set()).update(imported - {None, importer})
    return found


def violations(modules: Imports) -> list[str]:
    """Return every import that does not go down or has no layer: 'importer imports imported'."""
    found = []
    for module, names in modules.items():
        importer = unit_of(module)
        for name in sorted(names):
            parts = name.split(".")
            if parts[0] != "lors" or len(parts) == 1 or parts[1].startswith("__"):
                continue  # another package, or a fact of lors itself such as its version
            imported = unit_of(name)
            if imported is None:
                found.append(f"{module} imports {name}, which no layer holds")
            elif imported == importer:
                continue
            elif importer is None or layer_of(imported) <= layer_of(importer):
                found.append(f"{module} imports {name}")
    return found


def module_of(name: str, modules: Iterable[str]) -> str:
    """Return the module of an imported name, which may be the module itself."""
    while name not in modules and "." in name:
        name = name.rpartition(".")[0]
    return name


def circles(modules: Imports) -> list[str]:
    """Return the circles of modules that import each other: 'a -> b -> a'."""
    edges = {
        module: {module_of(name, modules) for name in names if name.split(".")[0] == "lors"}
        for module, names in modules.items()
    }
    found, finished = [], set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append(" -> ".join([*path[path.index(module) :], module]))
        elif module not in finished:
            for other in sorted(edges.get(module, ())):
                visit(other, [*path, module])
            finished.add(module)

    for module in modules:
        visit(module, [])
    return found


def needed_by(module: str, modules: Imports) -> set[str]:
    """Return all modules of lors that the import of a module loads, the module included.

    Python loads the packages of a module too, so they are among them.
    """
    needed: set[str] = set()
    waiting = [module]
    while waiting:
        name = module_of(waiting.pop(), modules)
        if name in modules and name not in needed:
            needed.add(name)
            waiting.extend(other for other in modules[name] if other.split(".")[0] == "lors")
            waiting.append(name.rpartition(".")[0])
    return needed


def third_party(modules: Imports, names: Iterable[str]) -> set[str]:
    """Return the packages outside lors and the standard library that these modules import.

    The standard library includes ``_typeshed``, which has its types for a type checker alone.
    """
    top = {name.split(".")[0] for module in names for name in modules[module]}
    return top - set(sys.stdlib_module_names) - {"lors", "_typeshed"}


def reachable(start: str, edges: Imports) -> set[str]:
    """Return all units that a unit imports, directly or through other units."""
    found: set[str] = set()
    waiting = list(edges.get(start, ()))
    while waiting:
        unit = waiting.pop()
        if unit not in found:
            found.add(unit)
            waiting.extend(edges.get(unit, ()))
    return found


def diagram(modules: Imports) -> str:
    """Return the packages and their imports in Mermaid's language, a row for each layer.

    An import is left out if a chain of other imports implies it.
    """
    lines = ["```mermaid", "graph TD"]
    for number, layer in enumerate(LAYERS):
        lines.append(f'  subgraph layer{number}[" "]')
        lines += [f"    {unit}" for unit in layer]
        lines.append("  end")
    lines += [f"  {unit} --> {other}" for unit, other in arrows(modules)]
    return "\n".join([*lines, "```"])


def drawing(modules: Imports) -> str:
    """Return the same diagram as SVG in HTML; docs/style.css has its colours."""
    places = {
        unit: ((WIDTH - len(layer) * STEP) // 2 + STEP * index + STEP // 2, ROW * number + BOX)
        for number, layer in enumerate(LAYERS)
        for index, unit in enumerate(layer)
    }
    parts, drawn = [], arrows(modules)
    for unit, other in drawn:
        (x, y), (far_x, far_y) = places[unit], places[other]
        begin, end, bend = y + BOX // 2, far_y - BOX // 2 - 6, ROW // 2
        x += _offset(other, sorted((b for a, b in drawn if a == unit), key=places.get))
        far_x += _offset(unit, sorted((a for a, b in drawn if b == other), key=places.get))
        curve = f"M{x} {begin}C{x} {begin + bend} {far_x} {end - bend} {far_x} {end}"
        parts.append(f'<path d="{curve}" marker-end="url(#head)"/>')
    for unit, (x, y) in places.items():
        corner = f'x="{x - STEP // 2 + 10}" y="{y - BOX // 2}"'
        parts.append(f'<rect {corner} width="{STEP - 20}" height="{BOX}" rx="4"/>')
        parts.append(f'<text x="{x}" y="{y + 5}">{unit}</text>')
    size = f'viewBox="0 0 {WIDTH} {ROW * len(LAYERS)}"'
    head = (
        '<marker id="head" viewBox="0 0 8 8" refX="4" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L8 4L0 8z"/></marker>'
    )
    return (
        f'<div class="architecture"><svg {size} role="img" aria-label="packages of lors and their '
        f'imports"><defs>{head}</defs>{"".join(parts)}</svg></div>'
    )


def _offset(unit: str, neighbours: Sequence[str]) -> int:
    """Return where an arrow meets a box, from its middle: arrows are in the order of the units."""
    return int((neighbours.index(unit) - (len(neighbours) - 1) / 2) * (STEP - 40) / len(neighbours))


def arrows(modules: Imports) -> list[tuple[str, str]]:
    """Return the imports of the diagram: importing and imported unit, by layers."""
    edges = unit_imports(modules)
    found = []
    for unit in (unit for layer in LAYERS for unit in layer):
        direct = edges.get(unit, set())
        implied = {far for near in direct for far in reachable(near, edges)}
        found += [(unit, other) for other in sorted(direct - implied)]
    return found


def replaced(page: str, drawing: str) -> str:
    """Return the page with this drawing between its two marks; ValueError without the marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} needs the lines {BEGIN} and {END}")
    return f"{before}{begin}\n\n{drawing}\n\n{end}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help=f"put it into {PAGE.name}")
    args = parser.parse_args()
    modules = all_modules()
    if args.write:
        PAGE.write_text(replaced(PAGE.read_text("utf-8"), diagram(modules)), "utf-8")
    else:
        print(diagram(modules))
    problems = [*violations(modules), *(f"circle: {circle}" for circle in circles(modules))]
    print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
