"""Merging of experts that were fine-tuned from one base model.

``from lors.merge import MergePlan, run_merge`` is enough for a merge.
"""

from lors.merge.decompositions import Decompositions
from lors.merge.plan import MergeInputs, MergePlan, open_inputs
from lors.merge.run import apply_delta, merged_delta, run_merge

__all__ = [
    "Decompositions",
    "MergeInputs",
    "MergePlan",
    "apply_delta",
    "merged_delta",
    "open_inputs",
    "run_merge",
]
