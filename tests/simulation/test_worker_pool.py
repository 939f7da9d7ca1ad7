"""Jobs on several processes: results in order, errors as they are, a dead worker named."""

import math
import os

import pytest

from convoy_protos.errors import JobFailedError
from convoy_simulation.worker_pool import no_progress, run_jobs, worker_count


def test_results_come_in_the_order_of_the_jobs_and_progress_counts_up():
    seen = []
    results = run_jobs(abs, [-3, 1, -2], 1, lambda done, total: seen.append((done, total)))
    assert results == [3, 1, 2]
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_no_jobs_give_no_results():
    assert run_jobs(abs, [], 4, no_progress) == []


def test_zero_workers_are_the_cores_that_may_be_used():
    assert worker_count(0) == len(os.sched_getaffinity(0))
    assert worker_count(7) == 7


@pytest.mark.slow
def test_processes_keep_the_order_too():
    assert run_jobs(abs, [-3, 1, -2], 2, no_progress) == [3, 1, 2]


@pytest.mark.slow
def test_an_error_of_a_job_comes_out_as_it_is():
    with pytest.raises(ValueError, match=r"math domain|nonnegative"):
        run_jobs(math.sqrt, [1.0, -1.0], 2, no_progress)


@pytest.mark.slow
def test_a_worker_that_dies_is_a_failed_job_with_a_way_out():
    with pytest.raises(JobFailedError, match="workers = 1"):
        run_jobs(os._exit, [3, 3], 2, no_progress)
