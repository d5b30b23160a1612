"""What people read of a score: its name, its unit, which direction is better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Unit = Literal["°", "m", "%", ""]

_MOST_DECIMALS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """How a metric is shown.

    Attributes:
        name: In words.
        unit: Of what is shown.
        decimals: Of what is shown.
        lower_is_better: Its direction.
        factor: Makes the stored number the shown one, such as 100 for a share shown in per cent.
    """

    name: str
    unit: Unit = ""
    decimals: int
    lower_is_better: bool = True
    factor: float = 1.0

    @property
    def header(self) -> str:
        """Name and unit; a table's per cent stand in its cells."""
        return self.name if self.unit in {"", "%"} else f"{self.name} {self.unit}"

    @property
    def difference_unit(self) -> str:
        """Unit of a difference of two values: of per cent, points."""
        return "points" if self.unit == "%" else self.unit

    def text(self, value: float) -> str:
        """A value with its unit."""
        return _joined(f"{self.factor * value:.{self.decimals}f}", self.unit)

    def difference(self, before: float, after: float) -> str:
        """The signed change with its unit, with digits enough that a small one is not hidden."""
        change = self.factor * (after - before)
        return _joined(signed(change, least=self.decimals), self.difference_unit)

    def gain_pct(self, before: float, after: float) -> float | None:
        """Relative gain in per cent, positive is better; None where there is nothing to share."""
        if not before or not math.isfinite(before) or not math.isfinite(after):
            return None
        change = 100 * (after - before) / abs(before)
        return -change if self.lower_is_better else change


def decimals_for(value: float, *, least: int) -> int:
    """Decimals that show two digits of a number that is not 0."""
    if not value or not math.isfinite(value):
        return least
    return min(max(least, 1 - math.floor(math.log10(abs(value)))), _MOST_DECIMALS)


def signed(value: float, *, least: int) -> str:
    """A number with its sign, with digits enough that a small one is not hidden."""
    return f"{value:+.{decimals_for(value, least=least)}f}"


def _joined(number: str, unit: str) -> str:
    return f"{number}{unit}" if unit in {"", "°", "%"} else f"{number} {unit}"


def _share(name: str, *, decimals: int = 1, factor: float = 100.0) -> Measure:
    return Measure(name=name, unit="%", decimals=decimals, lower_is_better=False, factor=factor)


MEASURES: dict[str, Measure] = {
    "mean_deg": Measure(name="mean", unit="°", decimals=2),
    "median_deg": Measure(name="median", unit="°", decimals=2),
    "rmse_deg": Measure(name="RMSE", unit="°", decimals=2),
    "pct_5": _share("<5°", factor=1.0),
    "pct_7_5": _share("<7.5°", factor=1.0),
    "pct_11_25": _share("<11.25°", factor=1.0),
    "pct_22_5": _share("<22.5°", factor=1.0),
    "pct_30": _share("<30°", factor=1.0),
    "rmse_m": Measure(name="RMSE", unit="m", decimals=3),
    "rmse_log": Measure(name="RMSE log", decimals=3),
    "abs_err_m": Measure(name="mean error", unit="m", decimals=3),
    "abs_rel": Measure(name="AbsRel", decimals=3),
    "sq_rel": Measure(name="SqRel", decimals=3),
    "log10": Measure(name="log10", decimals=3),
    "delta_1": _share("δ1"),
    "delta_2": _share("δ2"),
    "delta_3": _share("δ3"),
    "miou": _share("mIoU"),
    "mean_accuracy": _share("mean accuracy"),
    "pixel_accuracy": _share("accuracy"),
    "max_f": _share("maxF"),
    "mae": Measure(name="MAE", decimals=3),
    "ods_f": _share("odsF"),
    "ois_f": _share("oisF"),
    "ap": _share("AP"),
}
"""Metric to how it is shown; ``ods_threshold`` is a setting that was found, not a score."""
