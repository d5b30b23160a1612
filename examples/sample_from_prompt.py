"""Labelled images from a text: python examples/sample_from_prompt.py RUN PROMPT FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

from deployment import load_run
from storage.samples.codecs import encode_sample


def main(url: str, prompt: str, folder: str) -> None:
    """Write four pairs as the PNG and JSON members that shards hold, too."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for sample in load_run(url).sample(prompt, count=4, seed=0):
        for member, data in encode_sample(sample).items():
            Path(folder, f"{sample.key}.{member}").write_bytes(data)
        print(f"{sample.key}: {', '.join(sample.labels)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
