"""Expect an error by its class and its facts; the wording of the message may change."""

import contextlib

import pytest

from lors.errors import LorsError


@contextlib.contextmanager
def refusal(*facts, kind=LorsError):
    """Expect an error of this class whose message names every fact: a file, a line, a name.

    Args:
        facts: texts or numbers that the message must hold, in any order.
        kind: the class of the error; a derived class is not accepted.
    """
    with pytest.raises(kind) as caught:
        yield caught
    assert type(caught.value) is kind
    message = str(caught.value)
    missing = [fact for fact in facts if str(fact) not in message]
    assert not missing, f"{missing} not in: {message}"
