"""Whether training gets the synthetic samples that it will wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.config import RunConfig
    from schemas.unit import Unit


def expect_enough_samples(config: RunConfig, plan: Sequence[Unit]) -> None:
    """Check that the self-improving stage will not wait for more images than are made before it.

    Raises:
        ConfigError: If it would.
    """
    wanted, lead = config.training.min_synthetic_samples, config.generation.max_lead
    first = [unit for unit in plan if unit.kind == "synthesize" and unit.round <= lead]
    made = sum(unit.num_samples for unit in first)
    if wanted > made:
        raise ConfigError(
            f"training.min_synthetic_samples = {wanted}: the plan makes {made} images before "
            f"training begins; set it to at most {made}, or raise source.num_labelled or "
            "plan.variants"
        )
