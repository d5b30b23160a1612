"""Make the configurations of a desk small: few steps, few rooms; the rest stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

AT_MOST: dict[str, dict[str, Any]] = {
    "creator": {"num_steps": 3},
    "plan": {"rounds": 2, "variants": 1, "unit_size": 4},
    "training": {
        "warm_up": {"steps": 6, "lr_warm_up_steps": 2},
        "self_improve": {"steps": 10, "lr_warm_up_steps": 2},
        "publish_every_images": 40,
        "min_synthetic_samples": 8,
    },
}
AT_MOST_OF_A_CREATOR = {"training": {"creator": {"steps": 6, "lr_warm_up_steps": 2}}}
AT_MOST_OF_ROOMS = {"source": {"num_labelled": 8, "num_validation": 8, "num_test": 16}}
OF_ROOMS = {"evaluation": {"control": False}}
# Six steps teach little: what they label is kept all the same.
ALWAYS = {
    "labelling": {"max_pixel_error_deg": 180.0, "min_pixel_confidence": 0.0},
    "screening": {"max_expected_error_deg": 180.0, "min_pixel_std": 0.0},
}


def make_small(tree: dict[str, Any]) -> dict[str, Any]:
    """A run's configuration with fewer of everything."""
    _lower(tree, AT_MOST)
    if "creator" in tree["training"]:
        _lower(tree, AT_MOST_OF_A_CREATOR)
    if tree.get("source", {}).get("kind") == "rooms":
        _lower(tree, AT_MOST_OF_ROOMS)
        _set(tree, OF_ROOMS)
    _set(tree, ALWAYS)
    return tree


def _set(tree: dict[str, Any], values: dict[str, dict[str, Any]]) -> None:
    for section, fields in values.items():
        tree[section] = {**tree.get(section, {}), **fields}


def _lower(tree: dict[str, Any], limits: dict[str, Any]) -> None:
    for name, limit in limits.items():
        if isinstance(limit, dict):
            _lower(tree.setdefault(name, {}), limit)
        else:
            tree[name] = min(tree.get(name, limit), limit)


def main() -> None:
    for path in (*Path("configs").rglob("*.yaml"), *Path().glob("*/config.yaml")):
        tree = yaml.safe_load(path.read_text())
        if "run" in tree and "source" in tree:
            path.write_text(yaml.safe_dump(make_small(tree)))


if __name__ == "__main__":
    main()
