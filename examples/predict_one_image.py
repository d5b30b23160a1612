"""Predict for one photograph: python examples/predict_one_image.py RUN PHOTOGRAPH."""

from __future__ import annotations

import sys

from deployment import load_run


def main(url: str, photograph: str) -> None:
    """Print what was predicted: every map has the photograph's size."""
    run = load_run(url)
    found = run.predict(photograph)
    for task, values in found.items():
        print(f"{task}: {values.dtype} {values.shape}")
    for task, error_deg in found.expected_error_deg.items():
        print(f"{task}: expected error {error_deg.mean():.2f}° on average")
    for task, confidence in found.confidence.items():
        print(f"{task}: confidence {confidence.mean():.2f} on average")


if __name__ == "__main__":
    main(*sys.argv[1:])
