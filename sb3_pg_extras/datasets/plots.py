"""A dataset in one picture: returns, actions, and where its observations lie."""

from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space_channels_first

from sb3_pg_extras.common.files import atomic_write
from sb3_pg_extras.common.returns import discounted_returns
from sb3_pg_extras.datasets.summary import Dataset, action_bounds, action_coverage, image_observations, project

# Rows and columns of the contact sheet.
SHEET = (4, 5)
COLOR = "#3b6ea5"


def plot_dataset(dataset: Dataset, path: str | Path, title: str = "") -> None:
    """
    Draw a histogram of the returns, one of the actions, and a projection of the observations, coloured by the
    return-to-go; or, where observations are images, a contact sheet of some, evenly spaced.

    :param dataset: The dataset.
    :param path: The PNG to write; it is written whole or not at all.
    :param title: Title of the picture.
    """
    # Imported here, as most programs draw nothing. Without pyplot, no display is needed.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    figure.suptitle(title)
    grid = figure.add_gridspec(1, 3, width_ratios=(1, 1, 1.25))
    _draw_returns(figure.add_subplot(grid[0]), dataset)
    _draw_actions(figure, figure.add_subplot(grid[1]), dataset)
    images = image_observations(dataset)
    if images is None:
        _draw_projection(figure, figure.add_subplot(grid[2]), dataset)
    else:
        _draw_sheet(figure, grid[2], *images)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=90)


def _draw_returns(axes: Any, dataset: Dataset) -> None:
    returns = dataset.episode_returns()
    # A range of its own where all returns are equal, to within rounding.
    flat = np.ptp(returns) <= 1e-9 * max(1.0, np.abs(returns).max())
    axes.hist(returns, bins=1 if flat else min(30, max(5, len(returns) // 5)), color=COLOR, edgecolor="white", linewidth=0.5)
    axes.axvline(returns.mean(), color="black", linestyle="--", linewidth=1, label=f"mean {returns.mean():.1f}")
    axes.legend(frameon=False)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set(title=f"Returns of {len(returns)} episodes", xlabel="return", ylabel="episodes")


def _draw_actions(figure: Any, axes: Any, dataset: Dataset) -> None:
    axes.set(title="Actions", xlabel="action", ylabel="share of steps")
    if isinstance(dataset.action_space, spaces.Box):
        columns = dataset.actions.reshape(len(dataset), -1).T
        bounds = action_bounds(dataset)
        parts = [np.histogram(column.clip(*limits), 30, limits) for column, limits in zip(columns, bounds, strict=True)]
        shares = np.array([counts / len(dataset) for counts, _ in parts])
        if len(shares) == 1:
            axes.stairs(shares[0], parts[0][1], fill=True, color=COLOR)
            return
        # Dimensions may have different bounds: a common axis only where they are the same.
        same = len(set(bounds)) == 1
        limits = bounds[0] if same else (0, 1)
        axes.set(xlabel="action" if same else "action, from its lower to its upper bound")
    else:
        counts = action_coverage(dataset)
        width = max(map(len, counts))
        # Choices with fewer values are padded with blanks.
        shares = np.array([[*choice.values(), *[np.nan] * (width - len(choice))] for choice in counts]) / len(dataset)
        if len(shares) == 1:
            axes.bar(list(counts[0]), shares[0], color=COLOR, width=0.8)
            axes.xaxis.get_major_locator().set_params(integer=True)
            return
        limits = (-0.5, width - 0.5)
    extent = (*limits, len(shares) - 0.5, -0.5)
    image = axes.imshow(shares, aspect="auto", cmap="Blues", vmin=0, extent=extent, interpolation="nearest")
    figure.colorbar(image, ax=axes, label="share of steps")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set(ylabel="dimension")


def _draw_projection(figure: Any, axes: Any, dataset: Dataset) -> None:
    rows, points, explained = project(dataset)
    returns_to_go = discounted_returns(dataset.rewards, dataset.episode_ends, 1.0)
    dots = axes.scatter(*points.T, c=returns_to_go[rows], s=4, cmap="viridis", linewidths=0)
    figure.colorbar(dots, ax=axes, label="return-to-go")
    labels = [f"component {i} ({share:.0%} of the variance)" for i, share in enumerate(explained, 1)]
    axes.set(title=f"Observations ({len(rows)} of {len(dataset)})", xlabel=labels[0], ylabel=labels[1])


def _draw_sheet(figure: Any, place: Any, images: np.ndarray, space: spaces.Space) -> None:
    assert isinstance(space, spaces.Box)
    rows = np.linspace(0, len(images) - 1, min(len(images), SHEET[0] * SHEET[1])).astype(int)
    for row, cell in zip(rows, place.subgridspec(*SHEET, wspace=0.05, hspace=0.05), strict=False):
        image = images[row].transpose(1, 2, 0) if is_image_space_channels_first(space) else images[row]
        axes = figure.add_subplot(cell)
        # The newest of stacked frames.
        axes.imshow(image if image.shape[-1] == 3 else image[..., -1], cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()
        axes.set_title(f"row {row}", fontsize=6, pad=2)
