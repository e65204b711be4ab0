"""Run jobs in parallel and keep their results in a CSV file, one row as each ends."""

import csv
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, as_completed
from pathlib import Path
from typing import Any

from tqdm import tqdm


def run_missing(
    output: Path,
    fields: Sequence[str],
    jobs: Sequence[tuple[Any, ...]],
    key: Callable[[dict[str, str]], tuple[Any, ...]],
    run: Callable[..., dict[str, Any]],
    pool: Executor,
) -> None:
    """
    Run the jobs whose rows are not in the file yet, and append their rows: a run that was stopped resumes where it was.

    If a job fails, the others still run; its error is raised at the end.

    :param output: The CSV file.
    :param fields: Its columns.
    :param jobs: Arguments of ``run``.
    :param key: The job that a row of the file belongs to.
    :param run: Does one job and returns its row.
    :param pool: What runs them.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    rows = list(csv.DictReader(output.open())) if output.exists() else []
    done = {key(row) for row in rows}
    with output.open("a", newline="") as file, pool:
        writer = csv.DictWriter(file, fields)
        if file.tell() == 0:  # a run that was stopped before its first row left a header
            writer.writeheader()
        futures = [pool.submit(run, *job) for job in jobs if job not in done]
        for future in tqdm(as_completed(futures), total=len(futures), unit="run"):
            if future.exception() is None:
                writer.writerow(future.result())
                file.flush()
                print(future.result(), flush=True)
        for future in futures:
            future.result()
