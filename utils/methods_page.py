#!/usr/bin/env python3
"""Write docs/methods.md: every merge method by its docstring, with the figures of the recipes.

utils/methods_page.py            print the page
utils/methods_page.py --write    write docs/methods.md
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lors.config import describe
from lors.merge.describe import value_text
from lors.merge.methods import METHODS, MergeMethod

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/methods.md"
INTRODUCTION = """\
# Merge methods

<!-- written from the docstrings and egs/*/lors1/RESULTS.md: utils/methods_page.py --write -->

All methods of `lors list-methods`. The merged model is `base + scaling_coef * delta`; each section
gives the formula of `delta` for one tensor, and the paper that it comes from. `tau_t` is the task
vector of expert `t` (expert − base, times its weight), `N` the number of experts, `U S V'` a
singular value decomposition, and `|x|` the norm of `x`.

A *sum* has one term for each expert. It can be calibrated (`--svc`) and added to a merged model
(`--onto`); its default scaling_coef is 1/N. A *joint* method needs all task vectors of a tensor
together. A method for *matrices* changes the tensors that the policy prunes; the task vectors of
the other tensors are summed for a sum, and averaged for a joint method. Among these are embeddings
and positions, which the authors of `tsv_m`, `iso_c`, `iso_cts` and `ace` treat as matrices too.
[Merging](merging.md) describes the command.
"""
MORE_METHODS = "More merge methods"
"""Beginning of the headings of tables of further methods, with one task or both."""
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
TITLE = "Results: "
"""Beginning of the first heading of a page of results; the experiment follows."""
FIGURES = """\
## Figures

Normalised performance over all pairs of language and task (0 is the base model, 1 the experts),
from the pages of [results](../RESULTS.md), which say how much each experiment can tell.
Methods that are not here have no figure there. [Which one?](merging.md#which-one) says which to
take. In the tables "mini_covost" and "mini_covost with a tiny Whisper" it has an older definition,
the mean over pairs: compare methods within one table.
"""
WORDS = re.compile(r"\S*`[^`]*`\S*|\S+")
MATHS = re.compile(r"\w_[\w{]|\^|\||^delta$|^[=<>]+$")
"""A word that belongs to a formula by itself."""
JOINS = r"[-+*/]|[\dN][\dN./e-]*|[B-Z]'?|[a-z]|(?:exp|log|max|mean)(?:\(\w+)?|cos|beta|epsilon"
"""A word that belongs to a formula if it stands beside a word that does."""


@dataclass(frozen=True)
class Figure:
    """Normalised performance of one method in one table of a page of results.

    Args:
        page: path of the page in the repository.
        experiment: the heading above the table.
        scope: over what the experts were merged.
        value: mean, and spread if there is one.
    """

    page: str
    experiment: str
    scope: str
    value: str

    @property
    def link(self) -> str:
        """The experiment as a link, to the page if its first heading has this name."""
        if self.experiment.startswith(TITLE):
            return f"[{self.name}](../{self.page})"
        anchor = re.sub(r"[^\w -]", "", self.experiment.lower()).replace(" ", "-")
        return f"[{self.name}](../{self.page}#{anchor})"

    @property
    def name(self) -> str:
        """The experiment in a sentence."""
        return self.experiment.removeprefix(TITLE)


def results_pages() -> dict[str, str]:
    """Return the path in the repository -> the content of the pages with results of merges."""
    pages = sorted(ROOT.glob("egs/*/lors1/RESULTS.md"))
    return {page.relative_to(ROOT).as_posix(): page.read_text("utf-8") for page in pages}


def figures_of(results: Mapping[str, str]) -> dict[str, list[Figure]]:
    """Return system -> its figures.

    They are in the tables with a column for all pairs, which stand in a section of the
    experiment, and in those below a heading `MORE_METHODS`, which is that of the experiment itself.

    Args:
        results: path of a page in the repository -> its content.
    """
    found: dict[str, list[Figure]] = {}
    for page, text in results.items():
        headings, columns = [""], []
        for line in FENCE.sub("", text).splitlines():
            if heading := re.match(r"(#+) (.*)", line):
                headings = [*headings[: len(heading[1])], heading[2]]
            is_more = headings[-1].startswith(MORE_METHODS)
            value = "norm. perf." if is_more else "all pairs"
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            if not line.startswith("|"):
                columns = []
            elif not line.strip("|:- "):
                continue
            elif not columns:
                columns = cells
            elif {"system", "merged over", value} <= set(columns) and len(cells) == len(columns):
                row = dict(zip(columns, cells, strict=True))
                system = row["system"].replace("\\_", "_")
                experiment = headings[-1 if is_more else -2]
                figure = Figure(page, experiment, row["merged over"], row[value])
                found.setdefault(system, []).append(figure)
    return found


def method_of(system: str) -> str | None:
    """Return the merge method of a system, also of a variant such as lors_paper; else None."""
    names = [name for name in METHODS if re.fullmatch(rf"{name}([_+].*)?", system)]
    return max(names, key=len, default=None)


def as_code(text: str, parameters: Iterable[str] = ()) -> str:
    """Return a text of a docstring with its formulas as code, and the arXiv numbers as links.

    Args:
        text: the text.
        parameters: names that may stand in a formula.
    """
    joins = re.compile("|".join([JOINS, *parameters]))
    done, run = [], []
    for word in [*WORDS.findall(text), ""]:
        bare = word.strip("().,;:")
        if "`" not in word and bare and (MATHS.search(bare) or joins.fullmatch(bare)):
            run.append(word)
            joined = " ".join(run)
            if joined[-1] not in ".,;:" or joined.count("(") > joined.count(")"):
                continue
            word = ""
        done += [_formula(run), word]
        run = []
    plain = " ".join(filter(None, done))
    return re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", plain)


def _formula(run: Sequence[str]) -> str:
    """Return neighbouring words as one span of code, if one of them belongs to a formula."""
    text = " ".join(run)
    if not any(MATHS.search(word.strip("().,;:")) for word in run):
        return text.replace("*", "\\*").replace("|", "\\|")
    inner = text.rstrip(".,;:")
    before, after = "", text[len(inner) :]
    while inner.startswith("(") and inner.count("(") > inner.count(")"):
        before, inner = before + "(", inner[1:]
    while inner.endswith(")") and inner.count(")") > inner.count("("):
        inner, after = inner[:-1], ")" + after
    if " (" in inner and inner.count("(") > inner.count(")"):
        head, _, tail = inner.rpartition(" (")  # a remark in brackets that goes on after the run
        return f"{before}{_formula(head.split())} {_formula(f'({tail}{after}'.split())}"
    return f"{before}`{inner}`{after}"


def section_of(method: MergeMethod, known: Mapping[str, Sequence[Figure]]) -> str:
    """Return the section of one method, with its figures and those of its variants."""
    text = inspect.getdoc(method.function) or ""
    summary, *paragraphs = text.partition("\n\nArgs:")[0].split("\n\n")
    kind = "Sum" if method.is_sum else "Joint method"
    tensors = "all tensors" if method.applies_to == "every" else "matrices"
    scaling_coef = "1/N" if method.combines == "sum" else "1"
    lines = [f"### {method.name}", "", f"**{as_code(summary)}**", ""]
    for paragraph in paragraphs:
        lines += [as_code(paragraph, method.parameters), ""]
    lines += [
        f"{kind} for {tensors}; default scaling_coef {scaling_coef}; "
        f"[conf/merge_{method.name}.yaml](../conf/merge_{method.name}.yaml).",
        "",
    ]
    for name, key in method.parameters.items():
        default = "required"
        if name in method.defaults:
            default = f"default `{value_text(method.defaults[name])}`"
        text = as_code(method.help(name), method.parameters)
        lines.append(f"- `{name}` ({describe(key.annotation)}; {default}): {text}")
    if method.parameters:
        lines.append("")
    values = [
        f"{f.name}, {f.scope}{'' if system == method.name else f' ({system})'}: {f.value}"
        for system, figures in known.items()
        if method_of(system) == method.name
        for f in figures
    ]
    if values:
        lines += [f"Normalised performance ([all methods](#figures)): {'; '.join(values)}.", ""]
    return "\n".join(lines)


def page_of(results: Mapping[str, str]) -> str:
    """Return the page.

    Args:
        results: path of a page of results in the repository -> its content.
    """
    known = figures_of(results)
    lines = [INTRODUCTION, "| method | merged delta | kind |", "|---|---|---|"]
    for name, method in METHODS.items():
        kind = "sum" if method.is_sum else "joint"
        kind += ", all tensors" if method.applies_to == "every" else ", matrices"
        lines.append(f"| [{name}](#{name}) | {as_code(method.summary)} | {kind} |")
    lines += ["", FIGURES, *_tables(known), "## Methods", ""]
    lines += [section_of(method, known) for method in METHODS.values()]
    return "\n".join(lines).rstrip("\n") + "\n"


def _tables(known: Mapping[str, Sequence[Figure]]) -> Iterator[str]:
    """Yield the lines of the tables of all figures: one for each experiment."""
    systems = [s for name in METHODS for s in sorted(known) if method_of(s) == name]
    found = [(system, figure) for system in systems for figure in known[system]]
    for experiment in dict.fromkeys(figure.link for _, figure in found):
        values = {
            (name, figure.scope): figure.value
            for name, figure in found
            if figure.link == experiment
        }
        scopes = sorted({scope for _, scope in values})
        yield from (f"{experiment}, merged over", "", f"| method | {' | '.join(scopes)} |")
        yield f"|---|{'--:|' * len(scopes)}"
        for name in dict.fromkeys(name for name, _ in values):
            cells = " | ".join(values.get((name, scope), "") for scope in scopes)
            yield f"| [{name}](#{method_of(name)}) | {cells} |"
        yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write docs/methods.md")
    page = page_of(results_pages())
    if parser.parse_args().write:
        PAGE.write_text(page, "utf-8")
    else:
        print(page, end="")


if __name__ == "__main__":
    main()
