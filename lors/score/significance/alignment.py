"""Word alignment as in NIST's sclite, for the segments of the matched-pairs test.

Error rates are counted with a weight of 1 for every error (jiwer). There are often several such
alignments, and the segments depend on the choice between them. The rule of sclite gives the
segments of its companion sc_stats: substitutions have weight 4, deletions and insertions 3; of
alignments with equal weight it takes, from the end of the sentence, a pair of words before an
insertion before a deletion. Five substitutions weigh more than three deletions with three
insertions: a sentence with many errors may have more of them in this alignment than in the error
rate, which has the smallest number.
"""

from __future__ import annotations

from collections.abc import Sequence

CORRECT, SUBSTITUTION, DELETION, INSERTION = "CSDI"
SUBSTITUTION_WEIGHT = 4
GAP_WEIGHT = 3
_PAIR, _DELETED, _INSERTED = 0, 1, 2


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> str:
    """Align two sequences of words.

    Args:
        reference: words of the reference.
        hypothesis: words of the hypothesis.

    Returns:
        One letter for each step: C (correct), S (substitution), D (deletion) or I (insertion).
    """
    same = 0  # Equal words at the end are always paired: no other step there has less weight.
    shorter = min(len(reference), len(hypothesis))
    while same < shorter and reference[-1 - same] == hypothesis[-1 - same]:
        same += 1
    i, j = len(reference) - same, len(hypothesis) - same
    back = _back_pointers(reference[:i], hypothesis[:j])
    steps = [CORRECT] * same
    while i or j:
        if j and (not i or back[i][j] == _INSERTED):
            steps.append(INSERTION)
            j -= 1
        elif not j or back[i][j] == _DELETED:
            steps.append(DELETION)
            i -= 1
        else:
            i, j = i - 1, j - 1
            steps.append(CORRECT if reference[i] == hypothesis[j] else SUBSTITUTION)
    return "".join(reversed(steps))


def _back_pointers(reference: Sequence[str], hypothesis: Sequence[str]) -> list[bytearray]:
    """Return the last step of the best alignment of the first i and the first j words."""
    above = [GAP_WEIGHT * j for j in range(len(hypothesis) + 1)]
    back = [bytearray()]
    for i, word in enumerate(reference, 1):
        row, steps = [GAP_WEIGHT * i], bytearray(len(hypothesis) + 1)
        for j, heard in enumerate(hypothesis, 1):
            pair = above[j - 1] + (0 if word == heard else SUBSTITUTION_WEIGHT)
            deleted, inserted = above[j] + GAP_WEIGHT, row[j - 1] + GAP_WEIGHT
            if pair <= deleted and pair <= inserted:
                row.append(pair)
            elif deleted < inserted:
                row.append(deleted)
                steps[j] = _DELETED
            else:
                row.append(inserted)
                steps[j] = _INSERTED
        above = row
        back.append(steps)
    return back
