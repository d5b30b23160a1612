"""Give a run's figures to Ray, whose agents offer them to Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray.util.metrics import Gauge

from runs.gauges import SIGNALS, readings

if TYPE_CHECKING:
    from runs.progress import RunView


class RaySignals:
    """The gauges of one run; made after Ray was connected."""

    def __init__(self, run_id: str) -> None:
        self._gauges = {
            signal.name: Gauge(
                signal.name,
                description=signal.description,
                tag_keys=("run_id", signal.tag) if signal.tag else ("run_id",),
            ).set_default_tags({"run_id": run_id})
            for signal in SIGNALS
        }

    def show(self, view: RunView) -> None:
        """Set every gauge whose figure is known."""
        for signal, value, tag in readings(view):
            tags = {signal.tag: tag} if signal.tag else None
            self._gauges[signal.name].set(value, tags=tags)
