"""Run independent jobs on several processes, results in the order of the jobs."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from convoy_protos.errors import JobFailedError
from convoy_simulation.worker_start import start_context

Job = TypeVar("Job")
Result = TypeVar("Result")

Progress = Callable[[int, int], None]
"""Called with jobs done and jobs in all."""


def no_progress(_done: int, _total: int) -> None:
    """Nobody watches."""


def worker_count(workers: int) -> int:
    """The number asked for; 0 stands for the cores this process may use."""
    return workers or len(os.sched_getaffinity(0))


def run_jobs(
    work: Callable[[Job], Result], jobs: Sequence[Job], workers: int, progress: Progress
) -> list[Result]:
    """Apply `work` to every job.

    Args:
        work: A function of a module; it, the jobs and the results travel by pickle.
        jobs: In the order in which the results come back; put the long ones first.
        workers: Processes; 1 works here, without starting any; 0 is one a core.
        progress: Called whenever a job is done.

    Raises:
        JobFailedError: A process died. What `work` raises comes out as it is.
    """
    processes = min(worker_count(workers), len(jobs))
    if processes <= 1:
        results = []
        for job in jobs:
            results.append(work(job))
            progress(len(results), len(jobs))
        return results
    with ProcessPoolExecutor(processes, mp_context=start_context()) as pool:
        try:
            futures = [pool.submit(work, job) for job in jobs]
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                progress(done, len(jobs))
        except BrokenProcessPool as error:
            raise JobFailedError(
                "a worker process died, perhaps for lack of memory; try again with workers = 1"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]
