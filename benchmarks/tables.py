"""
Put the benchmark results into README and docs, as tables, and into ``docs/images/``, as pictures: ``python
benchmarks/tables.py`` (``--check`` only compares the tables).

A table stands between ``<!-- table: name -->`` and ``<!-- end -->``; nothing in it is written by hand. Where it has several
seeds, it shows their mean, and their interquartile mean (IQM) with a 95% percentile bootstrap interval, as Agarwal et al.
(2021, arXiv:2108.13264) recommend. SciPy computes them: rliable 1.2.0, theirs, does not run with pandas 3 and arch 7.
"""

import argparse
import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import yaml
from scipy.stats import bootstrap, spearmanr, trim_mean

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from sb3_pg_extras.offline.evaluation import Value
from sb3_pg_extras.zoo import hyperparams_file

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ROOT / "docs" / "images"
BUNDLED = ROOT / "sb3_pg_extras" / "datasets" / "bundled"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *BUNDLED.glob("*.md")]
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
IQM = "IQM (95% interval)"
# Means over fewer datasets say little beside the others.
LEAST_DATASETS = 6
# With more seeds, a cell shows their range.
SHOWN_SEEDS = 10
# Headers that differ from their columns' names.
HEADERS = {
    "speed_up": "speed-up of the first (median of per-turn ratios)",
    "times_d3rlpy": "x d3rlpy (median of per-turn ratios)",
    "h5py_seconds": "h5py, s",
    "seconds": "load_dataset, s",
    "ratio": "load_dataset / h5py (median of per-turn ratios)",
    "floor_ratio": "floor / h5py",
    "memory": "memory / arrays",
    "of_in_memory": "steps/s, as a share of in-memory (median of per-turn ratios)",
}
# Offline figure -> 1, or -1 where less should be better, and its header.
OFFLINE_FIGURES = {
    "value": (1, "FQE's value"),
    "advantage": (1, "advantage"),
    "action_error": (-1, "action error (less is better)"),
    "log_likelihood": (1, "log-likelihood"),
    "td_error": (-1, "TD error (less is better)"),
}
# What locomotion_narrow.csv has changes of.
NARROW_BASE = "BEAR, four target samples, 10,000 steps"
# The variants of locomotion.csv that are drawn.
SHOWN_CURVES = ("BEAR", "BC", "TD3BC", "TD3BC, gamma 0.997, n_steps 5, tau 0.05")
Row = dict[str, Any]


def read(name: str) -> list[Row]:
    """:return: The rows of a result file by seed, with what was logged beside the other columns."""
    with open(RESULTS / f"{name}.csv") as file:
        rows: list[Row] = [row | json.loads(row.get("logged", "{}")) for row in csv.DictReader(file)]
    return sorted(rows, key=lambda row: int(row.get("seed") or 0))


def groups(rows: Iterable[Row], *columns: str) -> dict[tuple[Any, ...], list[Row]]:
    """:return: The rows by the values of some columns."""
    result: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        result.setdefault(tuple(row[column] for column in columns), []).append(row)
    return result


def markdown(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """:return: A Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows) + "\n"


def mean_and_iqm(rows: Iterable[Row], name: str, digits: int) -> list[str]:
    """:return: A column's mean, and its interquartile mean with the interval where there are several seeds."""
    values = np.array([float(row[name]) for row in rows])
    mean = f"**{values.mean():.{digits}f}**"
    if len(values) == 1:
        return [mean, ""]
    iqm = partial(trim_mean, proportiontocut=0.25)
    low, high = bootstrap((values,), iqm, method="percentile", rng=0).confidence_interval
    return [mean, f"{iqm(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"]


def seed_by_seed(rows: Iterable[Row], name: str, digits: int | None) -> str:
    """:return: A column's values, of many seeds the range; without ``digits`` as they stand in the file."""
    if digits is None:
        return "; ".join(row[name] for row in rows)
    values = [float(row[name]) for row in rows if row.get(name, "") != ""]
    if len(values) > SHOWN_SEEDS:
        return f"{min(values):.{digits}f} to {max(values):.{digits}f} ({len(values)} seeds)"
    return ", ".join(f"{value:.{digits}f}" for value in values)


def learning(
    suite: str,
    value: str,
    digits: int,
    more: dict[str, tuple[str, int | None]],
    by: Sequence[str] = ("variant",),
    keep: Callable[[Row], bool] = lambda row: True,
) -> str:
    """:return: What learning came to by one column, a line for each variant, and further columns (and digits) by header."""
    lines: list[Any] = []
    for key, own in groups(filter(keep, read(suite)), *by).items():
        seeds = [seed_by_seed(own, *column) for column in ((value, digits), *more.values())]
        lines.append([*key, *mean_and_iqm(own, value, digits), *seeds])
    lines.sort(key=lambda line: line[: len(by) - 1])
    return markdown([*by, "mean", IQM, "seeds", *more], lines)


def zoo_entries(algorithm: str) -> str:
    """The entries of a hyper-parameter file, and below each what was tried before it."""
    entries = yaml.safe_load(hyperparams_file(algorithm).read_text())
    lines: list[Any] = []
    for (env_id, settings), own in groups(read("zoo_entries"), "env", "variant").items():
        if own[0]["algorithm"] == algorithm:
            kind = "entry" if settings == str(entries[env_id]) else "tried before"
            lines.append([env_id, kind, f"`{settings}`", *mean_and_iqm(own, "return_mean", 1), len(own)])
    lines.sort(key=lambda line: line[:2])
    return markdown(["env", "", "settings", "mean", IQM, "seeds"], lines)


def export() -> str:
    """How often exported policies act otherwise than ``predict``, over algorithms and action spaces."""
    names = ["onnx", "torchscript", "predict"]
    lines = []
    for (kind,), own in groups(read("export"), "observation").items():
        by_format = groups(own, "format")
        cells = []
        for name in names:
            rows = by_format[(name,)]
            largest = max(float(row["largest_difference"]) for row in rows)
            cells.append(f"{sum(int(row['disagreements']) for row in rows)} ({largest:.1g})")
        lines.append([kind, sum(int(row["observations"]) for row in by_format[("onnx",)]), *cells])
    header = ["observations", "number", "ONNX", "TorchScript", "`predict` in other batches"]
    return markdown(header, lines)


def fine_tune() -> str:
    """Mean return over seeds along the online steps."""
    shown = ["0", "500", "1000", "2000", "4000", "8000"]
    lines = []
    for (variant,), own in groups(read("fine_tune"), "variant").items():
        means = [f"{np.mean([row['evaluations'][steps] for row in own]):.0f}" for steps in shown]
        late = [value for row in own for steps, value in row["evaluations"].items() if int(steps) >= 4_000]
        lines.append([variant, len(own), *means, mean_and_iqm(own, "return_mean", 0)[1], f"{min(late):.0f}"])
    last = [f"last five evaluations: {IQM}", "worst evaluation from step 4000 on"]
    return markdown(["", "seeds", *(f"step {steps}" for steps in shown), *last], lines)


def kills() -> str:
    """Workers killed with SIGKILL."""
    lines = []
    for (what,), own in groups(read("kills"), "what").items():
        sums = [sum(int(row[name]) for row in own) for name in ("asked", "finished", "lost", "twice")]
        lines.append([what, len(own), *sums])
    return markdown(["", "kills", "trials or runs asked for", "finished", "lost", "counted twice"], lines)


def sb3_suites() -> str:
    counts = [
        (name, len(rows), *[sum(row["outcome"] == outcome for row in rows) for outcome in ("passed", "skipped", "failed")])
        for (name,), rows in groups(read("sb3_suites"), "class").items()
    ]
    return markdown(("class", "tests", "passed", "skipped", "failed"), counts)


def data_name(row: Row) -> str:
    """:return: The name of a row's dataset, without folder and suffix."""
    return Path(row["dataset"]).stem


def locomotion_rows() -> list[Row]:
    """:return: All runs, and the behaviour VAEs that BEAR's runs left, which clone with normalised observations."""
    rows = read("locomotion")
    vae, names = {"algorithm": "bc", "variant": "BEAR's VAE"}, ("dataset", "seed", "dataset_return", "dataset_best")
    clones = [
        vae | {"return_mean": row["cloning_return"]} | {name: row[name] for name in names}
        for row in rows
        if row["variant"] == "BEAR"
    ]
    return rows + clones


def locomotion() -> str:
    """Returns by variant and dataset, means over the seeds."""
    rows = sorted(locomotion_rows(), key=data_name)
    datasets = list(groups(rows, "dataset").values())
    data = [next(row for row in own if "dataset_return" in row) for own in datasets]
    lines: list[list[Any]] = [
        ["the data: mean (best)", "", *(f"{row['dataset_return']:.0f} ({row['dataset_best']:.0f})" for row in data)]
    ]
    for (variant,) in groups(locomotion_rows(), "variant"):
        returns = [[float(row["return_mean"]) for row in own if row["variant"] == variant] for own in datasets]
        seeds = sorted({len(values) for values in returns if values})
        cells = [f"{np.mean(values):.0f}" if values else "" for values in returns]
        lines.append([variant, seeds[0] if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}", *cells])
    minutes = []
    for own in datasets:
        cloned = np.mean([float(row["return_mean"]) for row in own if row["variant"] == "BC"])
        minutes.append(", ".join(minutes_to(cloned, row) for row in own if row["variant"] == "BEAR"))
    lines.append(["BEAR: minutes to BC's return", "", *minutes])
    return markdown(["", "seeds", *map(data_name, data)], lines)


def minutes_to(wanted: float | np.floating, row: Row) -> str:
    """:return: Minutes of training (one core) until the first evaluation that reaches a return."""
    minutes = float(row["seconds"]) / int(row["n_timesteps"]) / 60
    steps = [int(step) for step, value in row["evaluations"].items() if value >= wanted]
    return f"{steps[0] * minutes:.1f}" if steps else "never"


def expert_returns() -> dict[str, float]:
    """:return: The expert's return by dataset."""
    return {row["dataset"]: float(row["expert_return"]) for row in read("locomotion_datasets")}


def locomotion_summary(columns: slice = slice(None)) -> str:
    """All datasets together, in percent of the experts' returns; and whether BEAR's constraint is met at the end."""
    rows = scored_rows()
    bear = scores_by_dataset(row for row in rows if row["variant"] == "BEAR")
    lines = []
    for (variant,), own in groups(rows, "variant").items():
        scores = scores_by_dataset(own)
        if len(scores) < LEAST_DATASETS:
            continue
        mean = float(np.mean([np.mean(values) for values in scores.values()]))
        iqm = mean_and_iqm(own, "score", 0)[1]
        better, above = "", ""
        if variant != "BEAR":
            better = f"{100 * probability_of_improvement(bear, scores):.0f}%"
            above = "{:+.0f} ({:+.0f} to {:+.0f})".format(*gain(bear, scores))
        met = [is_met(row) for row in own if row["algorithm"] == "bear" and "train/alpha" in row]
        constraint = f"{sum(met)} of {len(met)}" if met else ""
        stable = [is_stable(row) for row in own if row["dataset"].endswith("-medium.npz") and "evaluations" in row]
        medium = f"{sum(stable)} of {len(stable)}" if stable else ""
        lines.append([variant, f"{len(scores)}, {len(own)}", f"**{round(mean)}**", iqm, above, better, medium, constraint])
    above = "BEAR above it (95% interval over datasets)"
    header = ["", "datasets, runs", "mean over datasets", f"{IQM} over runs", above, "BEAR better"]
    header += ["stable on medium", "constraint met"]
    lines.sort(key=lambda line: -float(line[2].strip("*")))
    return markdown(header[columns], [line[columns] for line in lines])


def published() -> str:
    """Others' scores on D4RL's data, and ours on our own, in percent of the experts'."""
    rows = read("published")
    source, algorithm, *names = rows[0]
    lines = [[row[source], row[algorithm], *(float(row[name]) for name in names)] for row in rows]
    for (variant,), own in groups(scored_rows(), "variant").items():
        scores = {Path(dataset).stem: np.mean(values) for dataset, values in scores_by_dataset(own).items()}
        if variant in (*SHOWN_CURVES, "BEAR, published preset") and len(scores) == len(names):
            lines.append(["this package, our data", variant, *(scores[name] for name in names)])
    cells = ([*line[:2], *map(round, line[2:]), f"**{np.mean(line[2:]):.0f}**"] for line in lines)
    return markdown(["", "", *names, "mean"], cells)


def scored_rows() -> list[Row]:
    """:return: All runs on locomotion data, with their returns in percent of the experts'."""
    experts = expert_returns()
    return [row | {"score": 100 * float(row["return_mean"]) / experts[data_name(row)]} for row in locomotion_rows()]


def scores_by_dataset(rows: Iterable[Row]) -> dict[Any, list[float]]:
    """:return: The scores of all seeds, by dataset."""
    return {dataset: [row["score"] for row in own] for (dataset,), own in groups(rows, "dataset").items()}


def probability_of_improvement(ours: dict[Any, list[float]], theirs: dict[Any, list[float]]) -> float:
    """:return: The chance that one of our runs is better than one of theirs on the same data (Agarwal et al. 2021)."""
    pairs = [[x > y for x in ours[name] for y in theirs[name]] for name in ours if name in theirs]
    return float(np.mean([np.mean(pair) for pair in pairs]))


def gain(ours: dict[Any, list[float]], theirs: dict[Any, list[float]]) -> tuple[float, float, float]:
    """:return: The mean difference over the datasets that both have, and its bootstrap interval over datasets."""
    differences = [np.mean(ours[name]) - np.mean(theirs[name]) for name in ours if name in theirs]
    interval = bootstrap((differences,), np.mean, method="percentile", rng=0).confidence_interval
    return float(np.mean(differences)), float(interval.low), float(interval.high)


def is_stable(row: Row) -> bool:
    """:return: Whether the lowest of the last five evaluations is at least 80% of their mean."""
    evaluations = list(map(float, row["last_evaluations"].split()))
    return bool(min(evaluations) >= 0.8 * np.mean(evaluations))


def is_met(row: Row) -> bool:
    """:return: Whether, in the last fifth, MMD is at most 10% above the threshold and alpha is below its clamp."""
    late = range(-max(1, len(row["train/alpha"]) // 5), 0)
    return all(
        row["train/mmd"][i] <= 1.1 * row["train/mmd_threshold"][i] and row["train/alpha"][i] < 0.99 * np.exp(10)
        for i in late
    )


def locomotion_curves() -> None:
    """Returns along the training: means over seeds, and the range, shaded."""
    rows = [row for row in read("locomotion") if row["variant"] in SHOWN_CURVES]
    datasets = groups(sorted(rows, key=data_name), "dataset")
    figure, axes = plt.subplots(3, 3, figsize=(10, 7.5), layout="constrained", sharex=True)
    experts = expert_returns()
    for axis, own in zip(axes.flat, datasets.values(), strict=False):
        for number, variant in enumerate(SHOWN_CURVES):
            runs = [row for row in own if row["variant"] == variant]
            if runs:
                steps = sorted(set.intersection(*(set(map(int, row["evaluations"])) for row in runs)))
                returns = np.array([[row["evaluations"][str(step)] for step in steps] for row in runs])
                axis.plot(steps, returns.mean(axis=0), label=variant, color=f"C{number}")
                axis.fill_between(steps, returns.min(axis=0), returns.max(axis=0), color=f"C{number}", alpha=0.15)
        axis.axhline(own[0]["dataset_return"], color="grey", linestyle=":", label="the data's mean")
        axis.axhline(experts[data_name(own[0])], color="grey", linestyle="--", label="the expert")
        axis.set_title(data_name(own[0]), fontsize=9)
        axis.tick_params(labelsize=8)
    figure.supxlabel("gradient steps", fontsize=9)
    figure.supylabel("return", fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=6, fontsize=8)
    figure.savefig(IMAGES / "locomotion.png", dpi=90)


def locomotion_narrow() -> str:
    """What each change of a setting did to BEAR, below the entry itself."""
    changed = read("locomotion_narrow")
    runs = {(row["dataset"], row["seed"]) for row in changed}
    entries = [row for row in read("locomotion") if row["variant"] == NARROW_BASE and (row["dataset"], row["seed"]) in runs]
    lines = []
    for row in sorted([*entries, *changed], key=lambda row: (data_name(row), row["variant"] != NARROW_BASE, row["variant"])):
        divergence = "mmd" if "train/mmd" in row else "cost"
        names = ("alpha", divergence, f"{divergence}_threshold", "q_value")
        ends = [f"{row[f'train/{name}'][-1]:.3g}" for name in names]
        evaluations = row["last_evaluations"]
        lines.append(
            [data_name(row), row["variant"], row["seed"], f"**{float(row['return_mean']):.0f}**", evaluations, *ends]
        )
    header = ["dataset", "variant", "seed", "mean", "last five evaluations", "alpha", "divergence", "threshold", "Q"]
    return markdown(header, lines)


def judged(normalized: bool = True) -> list[Row]:
    """:return: The runs whose checkpoints FQE judged, with normalised observations or without."""
    rows = [row for row in read("offline_figures") if not row["variant"].startswith("earlier rule")]
    rows = [row for row in rows if ("normalises" if normalized else "FQE of 10,000 steps") in row["variant"]]
    return sorted(rows, key=lambda row: (data_name(row), row["algorithm"]))


def checkpoints(rows: Iterable[Row]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """:return: True returns of trained checkpoints, and their offline figures, signed so that more should be better."""
    returns: list[float] = []
    figures: dict[str, list[float]] = {name: [] for name in OFFLINE_FIGURES}
    for row in rows:
        trained = list(row["evaluations"].values())[1:]  # the first is before training
        returns += trained
        for figure in row["offline"][-len(trained) :]:
            for name, (sign, _) in OFFLINE_FIGURES.items():
                figures[name].append(sign * figure.get(name, np.nan))
            # An impossible value is the worst.
            value = figure["value"]
            if not Value(value, value, value, 1, figure.get("bound", np.inf)).is_possible:
                figures["value"][-1] = -np.inf
    return np.array(returns), {name: np.array(values) for name, values in figures.items()}


def trust(rows: Sequence[Row]) -> dict[str, tuple[float, float]]:
    """:return: By figure: the rank correlation with the true return, and the regret in percent of the returns' range."""
    returns, figures = checkpoints(rows)
    result = {}
    for name, values in figures.items():
        known = ~np.isnan(values)
        if known.sum() >= 3:
            picked = returns[known][values[known].argmax()]
            regret = 100 * (returns[known].max() - picked) / np.ptp(returns[known])
            result[name] = (float(spearmanr(values[known], returns[known]).statistic), float(regret))
    return result


def offline_figures() -> str:
    """Does a figure rank checkpoints as their returns do, and how much is lost by taking the one that it puts first?"""
    datasets = groups(judged(), "dataset")
    lines = []
    for fqe, kind in (("", datasets), (", not normalised", groups(judged(normalized=False), "dataset"))):
        lines.append([f"{len(kind)} datasets, mean{fqe}", *trust_cells([trust(rows) for rows in kind.values()])])
    for (dataset,), own in datasets.items():
        lines.append([Path(dataset).stem, *trust_cells([trust(own)])])
    return markdown(["dataset", *(about for _, about in OFFLINE_FIGURES.values())], lines)


def trust_cells(measured: Sequence[dict[str, tuple[float, float]]]) -> list[str]:
    """:return: A cell for each figure, means over the datasets."""
    cells = []
    for name in OFFLINE_FIGURES:
        known = [figures[name] for figures in measured if name in figures]
        cells.append("{:.2f}, {:.0f}%".format(*np.nanmean(known, axis=0)) if known else "")
    return cells


def offline_scatter() -> None:
    """The value that FQE gives to checkpoints, next to their returns."""
    datasets = groups(judged(), "dataset")
    figure, axes = plt.subplots(3, 3, figsize=(9.6, 9), layout="constrained")
    for axis, ((dataset,), own) in zip(axes.flat, datasets.items(), strict=False):
        for row in own:
            returns, figures = checkpoints([row])
            color = f"C{['bc', 'bear', 'td3_bc'].index(row['algorithm'])}"
            axis.scatter(figures["value"], returns, label=row["algorithm"], s=18, color=color)
        axis.set_title(Path(dataset).stem, fontsize=9)
        axis.tick_params(labelsize=8)
    figure.supxlabel("FQE's value", fontsize=9)
    figure.supylabel("true return", fontsize=9)
    axes[0, 0].legend(fontsize=8)
    figure.savefig(IMAGES / "offline_figures.png", dpi=90)


def acting() -> str:
    """Ways to act, on the same weights: means over the last evaluations and the seeds."""
    rows = sorted(read("acting"), key=data_name)
    datasets = list(groups(rows, "dataset").values())
    header = ["", *(f"{data_name(own[0])} ({len(own)} seeds)" for own in datasets)]
    cells = {
        rule: [f"{np.mean([row['acting'][rule] for row in own]):.0f}" for own in datasets] for rule in rows[0]["acting"]
    }
    return markdown(header, ([rule, *own] for rule, own in cells.items()))


def plain(name: str, columns: str, keep: Callable[[Row], bool] = lambda row: True) -> str:
    """:return: Some columns of a result file as they stand."""
    names = columns.split()
    headers = [HEADERS.get(name, name.replace("_", " ")) for name in names]
    return markdown(headers, ([row.get(name, "") for name in names] for row in read(name) if keep(row)))


def bars(rows: list[Row], panel: str, label: str, about: str, image: str) -> None:
    """Steps per second of some rows, in panels by one column, and another column as the bars' labels."""
    panels = groups(rows, panel)
    sizes = [len(own) for own in panels.values()]
    figure, axes = plt.subplots(len(panels), figsize=(7.5, 6.5), height_ratios=sizes, layout="constrained", squeeze=False)
    for axis, ((title,), own) in zip(axes[:, 0], panels.items(), strict=True):
        names = [row["loop"].split(", with")[0].split(", as")[0] for row in own]
        shown = axis.barh(names, [float(row["steps_per_second"]) for row in own])
        axis.bar_label(shown, [f"x {row[label]}" if row[label] else "" for row in own], padding=2, fontsize=7)
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.set_title(title, loc="left", fontsize=9)
        axis.tick_params(labelsize=8)
    axes[-1, 0].set_xlabel(about, fontsize=8)
    figure.savefig(IMAGES / image, dpi=100)


def fine_tune_curves() -> None:
    """Mean over seeds along the online steps, and the worst and best seed, shaded."""
    figure, (whole, close) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for (variant,), own in groups(read("fine_tune"), "variant").items():
        steps = [int(n) for n in own[0]["evaluations"]]
        returns = np.array([list(row["evaluations"].values()) for row in own])
        for axes in (whole, close):
            (line,) = axes.plot(steps, returns.mean(axis=0), label=variant)
            axes.fill_between(steps, returns.min(axis=0), returns.max(axis=0), color=line.get_color(), alpha=0.15)
    whole.set(xlabel="environment steps", ylabel="mean return", title="Pendulum-v1")
    close.set(xlabel="environment steps", ylim=(-350, -140), title="the same, closer")
    whole.legend(loc="lower right", fontsize="small")
    figure.savefig(IMAGES / "fine_tune.png", dpi=80)


SPEEDS = "group loop steps_per_second lowest highest speed_up"
ENV_AND_VARIANT = ("env", "variant")
# Returns of the last 100 training episodes.
SINGLE_STEP = partial(learning, "single_step_a2c", "train_return", 1)
TABLES: dict[str, Callable[[], str]] = {
    "acting": acting,
    "baselines": partial(learning, "baselines", "return_mean", 0, {}, ("algorithm", "variant")),
    "bear_hopper": partial(
        learning, "bear_hopper", "return_mean", 0,
        {"last five checkpoints": ("last_evaluations", None), "cloning from the same VAE": ("cloning_return", 0)},
    ),
    "bear_n_steps": partial(learning, "bear_n_steps", "return_mean", 0, {}),
    "bear_pendulum": partial(
        learning, "bear_pendulum", "return_mean", 0,
        {"BEAR's VAE": ("cloning_return", 0), "the data": ("dataset_return", 0), "SAC agent": ("expert_return", 0)},
        keep=lambda row: row["variant"] == "zoo entry (unbiased, 0.1)",
    ),
    "bear_pendulum_variants": partial(
        learning, "bear_pendulum", "return_mean", 0, {"alpha at the end": ("train/alpha", 0)},
        keep=lambda row: "earlier rule" not in row["variant"],
    ),
    "bear_speed": partial(plain, "bear_speed", "threads loop steps_per_second times_d3rlpy peak_megabytes"),
    "bear_speed_gpu": partial(
        plain, "bear_speed_gpu", "device batch_size loop steps_per_second lowest highest times_d3rlpy"
    ),
    "bigger_than_memory": partial(
        plain, "bigger_than_memory", "source gigabytes seconds_to_open resident_gigabytes of_in_memory"
    ),
    "export": export,
    "fine_tune": fine_tune,
    "fqe_speed": partial(plain, "fqe_speed", "loop turns steps_per_second lowest highest times_d3rlpy"),
    "fqe_values": partial(plain, "fqe_values", "by seed steps value"),
    "kills": kills,
    "load_speed": partial(plain, "load_speed", "file megabytes h5py_seconds seconds ratio floor_ratio memory"),
    "locomotion": locomotion,
    "locomotion_datasets": partial(
        plain, "locomotion_datasets",
        "dataset transitions episodes return_mean return_std return_best medium_steps medium_return expert_steps"
        " expert_return",
    ),
    "locomotion_narrow": locomotion_narrow,
    "locomotion_short": partial(locomotion_summary, slice(5)),
    "locomotion_summary": locomotion_summary,
    "offline_figures": offline_figures,
    "pendulum_dataset": partial(plain, "pendulum_dataset", "policy episodes mean_return std"),
    "published": published,
    "reinforce_default": partial(
        learning, "reinforce", "return_mean", 1, {}, keep=lambda row: row["variant"] == "default"
    ),
    "reinforce_exercises": partial(
        learning, "reinforce", "train_return", 1, {"greedy, 100 episodes": ("return_mean", 1)},
        keep=lambda row: row["variant"] != "default",
    ),
    "reinforce_speed": partial(plain, "online_speed", SPEEDS, lambda row: row["group"].startswith("whole")),
    "single_step_literal": partial(
        SINGLE_STEP, {"greedy": ("return_mean", 1)}, ENV_AND_VARIANT, lambda row: row["env"] == "CartPole-v1"
    ),
    "single_step_mountain_car": partial(
        SINGLE_STEP, {"goals": ("positive_returns", 0), "greedy": ("return_mean", 1)}, ENV_AND_VARIANT,
        lambda row: row["env"] == "MountainCarContinuous-v0",
    ),
    "single_step_speed": partial(plain, "online_speed", SPEEDS, lambda row: row["group"].startswith("one-step")),
    "single_step_stream": partial(SINGLE_STEP, {}, ENV_AND_VARIANT, lambda row: row["env"].endswith("-v5")),
    "sb3_suites": sb3_suites,
    "trained_agents": partial(plain, "trained_agents", "algorithm env return_mean return_std episodes kilobytes"),
    "zoo_entries_reinforce": partial(zoo_entries, "reinforce"),
    "zoo_entries_single_step_a2c": partial(zoo_entries, "single_step_a2c"),
}  # fmt: skip


def pictures() -> None:
    panels = [row | {"panel": f"{row['device']}, {row['threads']} threads"} for row in read("bear_speed")]
    about = "gradient steps per second (x: as a multiple of d3rlpy)"
    bars(panels, "panel", "times_d3rlpy", about, "bear_speed.png")
    about = "environment steps per second (x: speed-up of the first)"
    bars(read("online_speed"), "group", "speed_up", about, "online_speed.png")
    fine_tune_curves()
    locomotion_curves()
    offline_scatter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail if a page is not up to date")
    args = parser.parse_args()
    for page in PAGES:
        text = page.read_text()
        new = BLOCK.sub(lambda match: match[1] + TABLES[match[2]]() + match[3], text)
        if new != text and args.check:
            sys.exit(f"{page.name} is not what benchmarks/results says: run python benchmarks/tables.py")
        page.write_text(new)
    if not args.check:
        pictures()


if __name__ == "__main__":
    main()
