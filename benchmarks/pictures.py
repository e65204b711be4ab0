"""Draw the pictures of benchmark results in ``docs/images/``: ``python benchmarks/pictures.py``."""

import matplotlib
import numpy as np
from tables import ROOT, Row, groups, read

matplotlib.use("Agg")
import matplotlib.pyplot as plt

IMAGES = ROOT / "docs" / "images"


def bars(rows: list[Row], panel: str, label: str, about: str, image: str) -> None:
    """Steps per second of some rows, in panels by one column, and another column as the bars' labels."""
    panels = groups(rows, panel)
    sizes = [len(own) for own in panels.values()]
    figure, axes = plt.subplots(len(panels), figsize=(7.5, 6.5), height_ratios=sizes, layout="constrained", squeeze=False)
    for axis, ((title,), own) in zip(axes[:, 0], panels.items(), strict=True):
        names = [row["loop"].split(", with")[0].split(", as")[0] for row in own]
        shown = axis.barh(names, [float(row["steps_per_second"]) for row in own])
        axis.bar_label(shown, [f"x {row[label]}" for row in own], padding=2, fontsize=7)
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.set_title(title, loc="left", fontsize=9)
        axis.tick_params(labelsize=8)
    axes[-1, 0].set_xlabel(about, fontsize=8)
    figure.savefig(IMAGES / image, dpi=100)


def fine_tune() -> None:
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


def main() -> None:
    speeds = [row | {"panel": f"{row['device']}, {row['threads']} threads"} for row in read("bear_speed")]
    reference = "times_d3rlpy" if any(row["times_d3rlpy"] for row in speeds) else "times_plain"
    about = f"gradient steps per second (x: as a multiple of {reference.removeprefix('times_')})"
    bars(speeds, "panel", reference, about, "bear_speed.png")
    about = "environment steps per second (x: speed-up of the first)"
    bars(read("online_speed"), "group", "speed_up", about, "online_speed.png")
    fine_tune()


if __name__ == "__main__":
    main()
