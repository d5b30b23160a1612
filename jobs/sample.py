"""Make labelled images: from a prompt alone, or as variations of an image.

    python jobs/sample.py --run runs/demo --prompt "a bedroom with a blue bed" --count 8 --out pairs
    python jobs/sample.py --run runs/demo --from photograph.jpg --count 8 --out pairs

With ``--from``, the image is noised halfway and denoised under the prompt, or under what the run's
captioner sees in it. Every pair is written as the members of a shard are (docs/data_format.md),
``<key>.json`` with how it was made among them; ``contact_sheet.png`` shows the first of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from deployment.files import write_samples
from deployment.inputs import as_rgb
from deployment.options import add_run_options, open_output, open_run
from deployment.sampling import SamplingOptions
from runs.command_line import run_job
from runs.counting import counted
from schemas.errors import ConfigError, RunFailedError, SampleError
from schemas.run_layout import CONTACT_SHEET_FILE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from deployment import LoadedRun
    from runs.counting import OnDone
    from schemas.sample import Sample


def main(arguments: Sequence[str]) -> None:
    """Make the samples that the command line asks for."""
    parsed = make_parser().parse_args(arguments)
    real = read_origin(parsed)
    out = open_output(parsed.out)
    run = open_run(parsed)
    with counted("pairs") as on_done:
        made = make_samples(run, parsed, on_done=on_done)
    write_samples(out, made, run, real=real)
    Console().print(
        f'{len(made)} pairs under "{made[0].caption}": {out.uri(CONTACT_SHEET_FILE)}',
        soft_wrap=True,
        highlight=False,
    )


def read_origin(parsed: argparse.Namespace) -> NDArray[np.uint8] | None:
    """Read the image of ``--from``; None if there is none.

    Raises:
        ConfigError: If it cannot be read, or neither image nor prompt is given.
    """
    if parsed.origin is None:
        if parsed.prompt is None:
            raise ConfigError("wanted --prompt TEXT or --from IMAGE, found neither; give one")
        if parsed.t_start is not None:
            raise ConfigError(
                f"--t-start {parsed.t_start}: a prompt alone starts from pure noise; give an image "
                "with --from, or leave it out"
            )
        return None
    try:
        return as_rgb(Path(parsed.origin))
    except (SampleError, OSError) as error:
        raise ConfigError(f"--from {parsed.origin}: {error}; name a JPEG or PNG") from error


def make_samples(
    run: LoadedRun, parsed: argparse.Namespace, *, on_done: OnDone | None = None
) -> list[Sample]:
    """Make the samples with a loaded run.

    Raises:
        RunFailedError: If an image cannot be made: the backbone's numbers are not finite.
    """
    options = SamplingOptions(
        t_start=parsed.t_start, num_steps=parsed.steps, guidance_scale=parsed.guidance
    )
    count, seed = parsed.count, parsed.seed
    try:
        if parsed.origin is None:
            return run.sample(
                parsed.prompt, count=count, seed=seed, options=options, on_done=on_done
            )
        return run.vary(
            Path(parsed.origin),
            prompt=parsed.prompt,
            count=count,
            seed=seed,
            options=options,
            on_done=on_done,
        )
    except SampleError as error:
        raise RunFailedError(str(error)) from error


def make_parser() -> argparse.ArgumentParser:
    """Parser of this job's options."""
    parser = argparse.ArgumentParser(description="Make labelled images with a run's weights.")
    add_run_options(parser)
    parser.add_argument("--prompt", help="what the images should show")
    parser.add_argument("--from", dest="origin", metavar="IMAGE", help="image to vary")
    parser.add_argument("--count", type=int, default=1, help="how many pairs (1)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (0)")
    parser.add_argument(
        "--t-start", type=int, help="with --from: timestep the image is noised to (the run's)"
    )
    parser.add_argument("--steps", type=int, help="denoising steps (as dense as the run's)")
    parser.add_argument("--guidance", type=float, help="guidance scale, 1 = none (the run's)")
    return parser


if __name__ == "__main__":
    run_job(main)
