"""Train on your own images: python examples/train_on_your_folder.py DESCRIPTION RUN [STEPS].

DESCRIPTION is the YAML of docs/howto-your-own-folder.md, RUN a new folder. The tasks are those that
the description has labels of. One process, no Ray.
"""

from __future__ import annotations

import sys
from pathlib import Path

from deployment import load_run
from runs.directory import claim_run_directory
from schemas.config_file import parse_config
from schemas.sample import TASKS
from sources.folder_description import load_description
from storage.files.stores import open_store
from trainers.train_stage import train_stage_locally


def main(description: str, url: str, steps: str = "300") -> None:
    """Warm up on the labelled images, then predict for one."""
    labels = load_description(Path(description)).labels
    method = {"tasks": [task for task in TASKS if labels.of(task)]}
    if labels.semseg:
        method["num_classes"] = labels.semseg.num_classes
    stage = {"steps": int(steps), "batch_size": 4, "learning_rate": 2e-3}
    tree = {
        "run": {"url": url},
        "source": {"kind": "folder", "description": description},
        "method": method,
        "training": {"warm_up": stage, "self_improve": stage},
    }
    config = parse_config(tree, origin="this example")
    claim_run_directory(open_store(url), config)
    ended = train_stage_locally(config, "warm_up")
    print(f"{ended['step']} steps, validation {ended['validation']}")
    print(f"load_run({url!r}) predicts {load_run(url).tasks}")


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
