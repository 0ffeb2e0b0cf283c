"""CPU threads for Warp launches, which release the interpreter's lock: one persistent pool for the process."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise


def available_threads() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_in_chunks(work: Callable[[int, int], None], total: int, threads: int, least: int) -> None:
    """Calls work(first, count) over 0 .. total, on several threads where `total` is worth it: no chunk is smaller than `least`.

    There are more chunks than threads, so that none waits long for another, and an exception (Ctrl-C included) drops those not yet begun.
    """
    chunks = min(4 * threads, total // max(least, 1)) if threads > 1 else 1
    if chunks <= 1:
        work(0, total)
        return
    edges = [total * n // chunks for n in range(chunks + 1)]
    futures = [_pool(os.getpid(), threads).submit(work, a, b - a) for a, b in pairwise(edges)]
    try:
        for future in futures:
            future.result()
    finally:
        for future in futures:
            future.cancel()


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:  # by process: threads do not survive a fork
    return ThreadPoolExecutor(threads, thread_name_prefix="sphericalreg-render")
