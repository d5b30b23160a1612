"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math


def learning_rate(
    step: int, *, steps: int, peak: float, warm_up_steps: int = 0, final_fraction: float = 1.0
) -> float:
    """Linear warm-up, then half a cosine from the peak to a share of it.

    Args:
        step: Optimiser step about to be made, from 0 to ``steps - 1``.
        steps: Steps of the whole stage.
        peak: Greatest value, reached at the end of the warm-up.
        warm_up_steps: Steps of the linear rise; the first of them has peak / warm_up_steps.
        final_fraction: Share of the peak that the last step has; 1 keeps it constant.
    """
    if step < warm_up_steps:
        return peak * (step + 1) / warm_up_steps
    progress = (step - warm_up_steps) / max(1, steps - 1 - warm_up_steps)
    share = 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    return peak * (final_fraction + (1.0 - final_fraction) * share)
