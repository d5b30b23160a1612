"""A plan of a few units, whose source is nowhere."""

from __future__ import annotations

from schemas.config_file import parse_config
from schemas.sample import SourceShard

SHARDS = (
    SourceShard(name="a", uri="a.tar", keys=tuple(f"a{i}" for i in range(5))),
    SourceShard(name="b", uri="b.tar", keys=("b0",)),
)


def make_config(**plan):
    stage = {"steps": 10}
    tree = {
        "run": {"url": "runs/x"},
        "plan": {"rounds": 3, "variants": 2, "unit_size": 2, **plan},
        "training": {"warm_up": stage, "self_improve": stage},
    }
    return parse_config(tree, origin="test")
