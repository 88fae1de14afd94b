"""lors.recipe.liveness: processes of this machine; test_status.py has those of others."""

import os
import socket
import time

from lors.recipe.liveness import RecordedProcess, states_of


def test_number_that_another_process_has_got():
    """A process that was seen before this one started had the same number."""
    here, now = socket.gethostname(), time.time()
    mine = RecordedProcess(here, os.getpid(), seen_at=now)
    before = RecordedProcess(here, os.getpid(), seen_at=now - 30 * 86400)
    assert states_of([mine, before]) == ["running", ""]


def test_name_of_this_machine_with_its_domain():
    name = f"{socket.gethostname().split('.')[0]}.some.domain"
    assert states_of([RecordedProcess(name, os.getpid())]) == ["running"]
