"""utils/methods_page.py: formulas in the texts of docstrings, figures from tables of results."""

import runpy
from pathlib import Path

import pytest

program = runpy.run_path(str(Path(__file__).parents[2] / "utils/methods_page.py"))
as_code, figures_of = program["as_code"], program["figures_of"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("delta = sum_t (L_t + S_t). L_t is", "`delta = sum_t (L_t + S_t)`. `L_t` is"),
        (
            "delta = (1/N) sum_t tau_t (the soup of X)",
            "`delta = (1/N) sum_t tau_t` (the soup of X)",
        ),
        ("becomes max(S_i, S_k), so that", "becomes `max(S_i, S_k)`, so that"),
        ("first (L_t from the rest) or", "first (`L_t` from the rest) or"),
        ("(C_t, with a ridge)", "(`C_t`, with a ridge)"),
        ("A ridge * m is added.", "A ridge \\* m is added."),
        ("the option `order`, and S_t", "the option `order`, and `S_t`"),
        ("arXiv 2502.17380,", "[arXiv 2502.17380](https://arxiv.org/abs/2502.17380),"),
        ("A sum of 85 % of N experts.", "A sum of 85 % of N experts."),
    ],
)
def test_formulas_become_code(text, expected):
    assert as_code(text) == expected


def test_names_of_parameters_belong_to_a_formula():
    text = "delta = sum_t m_t * tau_t / density; density is"
    assert as_code(text, ["density"]) == "`delta = sum_t m_t * tau_t / density`; density is"


RESULTS = """# Results: one corpus, twice

| system | merged over | de | average | norm. perf. |
| :-- | :-- | --: | --: | --: |
| lors | languages | 1.0 | 1.0 | 0.99 |

## Normalised performance

```bash
# Not a heading
```

| system | merged over | WER | all pairs |
| :-- | :-- | --: | --: |
| base | - | 0.00 | 0.00 |
| dare\\_ties | languages | 0.10 | 0.20 ± 0.01 |

## With a small model

### Normalised performance

| system | merged over | all pairs |
| :-- | :-- | --: |
| dare\\_ties | languages and tasks | 0.30 |
"""
PAGE = "egs/x/lors1/RESULTS.md"


def test_a_variant_belongs_to_its_method():
    method_of = program["method_of"]
    systems = ("lors", "lors_paper", "lors_actmat", "task_arithmetic+svc", "joint", "lorsx")
    found = ["lors", "lors", "lors_actmat", "task_arithmetic", None, None]
    assert [*map(method_of, systems)] == found
    results = RESULTS.replace("dare\\_ties | languages |", "lors\\_paper | languages |")
    page = program["page_of"]({PAGE: results})
    assert "| [lors_paper](#lors) | 0.20 ± 0.01 |" in page
    assert "one corpus, twice, languages (lors_paper): 0.20 ± 0.01." in page


def test_figures_are_those_over_all_pairs():
    found = figures_of({PAGE: RESULTS})
    assert set(found) == {"base", "dare_ties"}
    assert [(f.scope, f.value) for f in found["dare_ties"]] == [
        ("languages", "0.20 ± 0.01"),
        ("languages and tasks", "0.30"),
    ]
    assert [f.link for f in found["dare_ties"]] == [
        f"[one corpus, twice](../{PAGE})",
        f"[With a small model](../{PAGE}#with-a-small-model)",
    ]


def test_a_table_of_further_methods_is_an_experiment():
    more = """# Results: other

## More merge methods, recognition

```bash
# after the command above
```

| system | merged over | de | norm. perf. |
| :-- | :-- | --: | --: |
| ties | languages | 1.0 | 0.40 |

## Normalised performance

| system | merged over | norm. perf. | all pairs |
| :-- | :-- | --: | --: |
| mp | languages | 0.1 | 0.50 |
"""
    found = figures_of({PAGE: RESULTS, "other.md": more})
    assert [(f.name, f.value) for f in found["ties"]] == [
        ("More merge methods, recognition", "0.40")
    ]
    assert found["ties"][0].link.endswith("(../other.md#more-merge-methods-recognition)")
    assert [(f.name, f.value) for f in found["mp"]] == [("other", "0.50")]
    assert len(found["dare_ties"]) == 2
