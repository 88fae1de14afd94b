"""Run one function on many tensors in threads, with results in order and bounded memory."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

Result = TypeVar("Result")

BLOCK = 2**16
"""Number of entries that stay in the processor's cache while several operations pass over them."""
IN_FLIGHT_BYTES = 96 * 2**20
"""Limit for the tensors that are in work at the same time. A larger tensor is in work alone."""


def map_in_order(
    work: Callable[[str], Result], sizes: Mapping[str, int], nj: int
) -> Iterator[tuple[str, Result]]:
    """Yield ``(name, work(name))`` in the order of `sizes`, computed by `nj` threads.

    Each call of `work` has one thread, because a sum that is split among threads depends on the
    number of threads. So the results are the same for any `nj`.

    Args:
        work: called once for each name.
        sizes: name -> bytes of its tensor.
        nj: number of threads.
    """
    threads = torch.get_num_threads()
    pending: collections.deque[tuple[str, Future]] = collections.deque()
    with threadpool_limits(1), ThreadPoolExecutor(nj, initializer=_one_thread) as pool:
        _one_thread()
        try:
            in_flight = 0
            for name, size in sizes.items():
                while pending and (in_flight + size > IN_FLIGHT_BYTES or len(pending) > 4 * nj):
                    first, future = pending.popleft()
                    yield first, future.result()
                    del future
                    in_flight -= sizes[first]
                pending.append((name, pool.submit(work, name)))
                in_flight += size
            while pending:
                first, future = pending.popleft()
                yield first, future.result()
        finally:
            for _, future in pending:
                future.cancel()
            torch.set_num_threads(threads)


def _one_thread() -> None:
    # OpenMP keeps this setting for each thread of the process separately.
    torch.set_num_threads(1)
