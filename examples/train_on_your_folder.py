"""Train on your own images: python examples/train_on_your_folder.py DESCRIPTION RUN [STEPS].

DESCRIPTION is the YAML of docs/howto-your-own-folder.md; RUN is a new folder. One process, no Ray;
jobs/self_improve.py goes on from there with the same configuration.
"""

from __future__ import annotations

import sys

from deployment import load_run
from runs.directory import claim_run_directory
from schemas.config_file import parse_config
from storage.files.stores import open_store
from trainers.train_stage import train_stage_locally


def main(description: str, url: str, steps: str = "300") -> None:
    """Warm up on the labelled images, then predict for one."""
    stage = {"steps": int(steps), "batch_size": 4, "learning_rate": 2e-3}
    tree = {
        "run": {"url": url},
        "source": {"kind": "folder", "description": description},
        "method": {"tasks": ["normals"]},
        "training": {"warm_up": stage, "self_improve": stage},
    }
    config = parse_config(tree, origin="this example")
    claim_run_directory(open_store(url), config)
    ended = train_stage_locally(config, "warm_up")
    print(f"{ended['step']} steps, validation {ended['validation']}")
    print(f"load_run({url!r}) predicts {load_run(url).tasks}")


if __name__ == "__main__":
    main(*sys.argv[1:])
