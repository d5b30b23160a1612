"""Predict for one photograph: python examples/predict_one_image.py RUN PHOTOGRAPH."""

from __future__ import annotations

import sys

from deployment import load_run


def main(url: str, photograph: str) -> None:
    """Print what was predicted: every map has the photograph's size."""
    run = load_run(url)
    found = run.predict(photograph)
    for task, values in found.items():
        sure = found.confidence[task].mean()
        unit = "° expected error" if task == "normals" else " confidence"
        print(f"{task}: {values.dtype} {values.shape}, {sure:.2f}{unit} on average")


if __name__ == "__main__":
    main(*sys.argv[1:])
