"""What a run is doing, shown in the terminal: stage, units, images/s, version, staleness, score."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from evaluation.measures import MEASURES
from runs.counting import PLAIN_EVERY_S, Pace, duration
from runs.results import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from rich.console import Console

REFRESH_S = 1.0
BAR_WIDTH = 40


@dataclass(kw_only=True)
class RunView:
    """The newest figures of a run.

    Attributes:
        stage: What is running now, in words.
        generation: Gauges of the generation loop; empty while it is not running.
        training: Newest ``trainer_progress`` event; empty before the first.
        counted: How many of the stage are done, and of how many; (0, 0) where nothing is counted.
        started_s: Clock reading at the start.
        pace: Of the stage.
    """

    stage: str = "starting"
    generation: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    counted: tuple[int, int] = (0, 0)
    started_s: float = field(default_factory=time.monotonic)
    pace: Pace = field(default_factory=Pace)

    def begin(self, stage: str) -> None:
        """Show another stage."""
        self.stage, self.counted, self.pace = stage, (0, 0), Pace()

    def count(self, done: int, total: int) -> None:
        """Note how many of the stage are done."""
        self.counted = (done, total)
        self.pace.seconds_left(done, total)

    @property
    def done(self) -> tuple[int, int]:
        """Steps of a training stage, or what is counted otherwise; (0, 0) if nothing is."""
        steps = self.training.get("steps")
        return (self.training.get("step", 0), steps) if steps else self.counted


def view_rows(view: RunView) -> list[tuple[str, str]]:
    """Label and text of each line; a figure that is not known yet is left out."""
    training, generation = view.training, view.generation
    rows = [("stage", view.stage), ("elapsed", duration(time.monotonic() - view.started_s))]
    done, total = view.done
    if training:
        rows.append(("step", f"{training.get('step', 0)} / {training.get('steps', '?')}"))
    elif total:
        rows.append(("done", f"{done} / {total}"))
    if total and (left := view.pace.seconds_left(done, total)) is not None:
        rows.append(("stage ends in", f"about {duration(left)}"))
    shown = (
        ("loss", training, "loss", "{:.3f}"),
        ("training", training, "images_per_s", "{:.1f} images/s"),
        ("version", training, "version", "{}"),
        ("staleness", training, "staleness_mean", "{:.2f} versions"),
        ("units", generation, "units", "{}"),
        ("generation", generation, "images_per_s", "{:.2f} images/s"),
        ("generators", generation, "generators", "{}"),
        ("generator state", generation, "state", "{}"),
    )
    rows += [
        (label, text.format(values[key]))
        for label, values, key, text in shown
        if values.get(key) is not None
    ]
    rows += validation_rows(training.get("validation", {}))
    return rows


def validation_rows(scores: dict[str, float]) -> list[tuple[str, str]]:
    """The headline metric of each task, or a creator's losses, on the validation images."""
    rows = [
        (f"validation {name.replace('_', ' ')}", f"{value:.4f}")
        for name, value in scores.items()
        if name.endswith("_loss")
    ]
    for task, (metric, *_) in COLUMNS.items():
        if (value := scores.get(f"{task}_{metric}")) is not None:
            measure = MEASURES[metric]
            rows.append((f"validation {task}", f"{measure.name} {measure.text(value)}"))
    return rows


class ProgressDisplay:
    """Draws a :class:`RunView` until it is closed: live on a terminal, a line now and then else."""

    def __init__(self, console: Console, view: RunView, refresh: Callable[[RunView], None]) -> None:
        """Prepare a display.

        Args:
            view: Is drawn; other threads may change it.
            refresh: Brings ``view`` up to date; called before each drawing.
        """
        self._console = console
        self._view = view
        self._refresh = refresh
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> ProgressDisplay:
        """Start drawing."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Draw once more and stop."""
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        if self._console.is_terminal:
            self._run_live()
        else:
            self._run_plain()

    def _run_live(self) -> None:
        with Live(console=self._console, refresh_per_second=4) as live:
            while not self._done.wait(REFRESH_S):
                self._refresh(self._view)
                live.update(_as_table(self._view))

    def _run_plain(self) -> None:
        while not self._done.wait(PLAIN_EVERY_S):
            self._refresh(self._view)
            self._console.print(
                " · ".join(f"{label} {text}" for label, text in view_rows(self._view)),
                soft_wrap=True,
            )


def _as_table(view: RunView) -> Table:
    table = Table.grid(padding=(0, 2))
    for label, text in view_rows(view):
        table.add_row(f"[bold]{label}[/bold]", text)
    done, total = view.done
    if total:
        table.add_row("", ProgressBar(total=total, completed=done, width=BAR_WIDTH))
    return table
