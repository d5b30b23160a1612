"""Train the small models the project ships, on tars of rendered rooms.

Example:
    python jobs/train_starter.py --rooms work/rooms --work-dir work/starter --out starter \
        --stage all --minutes 40

Each stage resumes from its checkpoint in the work directory. The denoiser needs the autoencoder.
With a GPU the same command uses it. `--stage export` writes what the checkpoints hold so far.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kit.renderer.caption import vocabulary
from kit.starter import autoencoder, captioner, denoiser
from kit.starter.data import Rooms
from kit.starter.export import export_captioner, export_diffusion, folder_bytes
from kit.starter.loop import LoopSettings
from kit.starter.tokenizer import make_caption_tokenizer, make_clip_tokenizer
from runs.command_line import run_job
from schemas.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LEARNING_RATES = {autoencoder.STAGE: 2e-3, denoiser.STAGE: 1e-3, captioner.STAGE: 1e-3}


def main(argv: Sequence[str]) -> None:
    """Train the stages asked for and export what is trained.

    Raises:
        UserError: If the length is not given once, or an earlier stage is missing.
    """
    options = _parser().parse_args(argv)
    if options.stage != "export" and (options.steps is None) == (options.minutes is None):
        raise UserError("--steps, --minutes: wanted exactly one of them")
    if options.threads:
        torch.set_num_threads(options.threads)
    logging.getLogger().setLevel(logging.INFO)
    stages: dict[str, Callable[[argparse.Namespace], None]] = {
        autoencoder.STAGE: _train_autoencoder,
        denoiser.STAGE: _train_denoiser,
        captioner.STAGE: _train_captioner,
    }
    for stage, train in stages.items():
        if options.stage in (stage, "all"):
            train(options)
    if options.stage != autoencoder.STAGE:
        _export(options)


def _train_autoencoder(options: argparse.Namespace) -> None:
    rooms = Rooms(options.rooms)
    autoencoder.train_autoencoder(rooms, _settings(options, autoencoder.STAGE), options.work_dir)


def _train_denoiser(options: argparse.Namespace) -> None:
    settings = _settings(options, denoiser.STAGE)
    coder = autoencoder.load_autoencoder(options.work_dir).to(settings.device)
    tokenizer = make_clip_tokenizer(vocabulary())
    rooms = Rooms(options.rooms)
    denoiser.train_denoiser(rooms, coder, tokenizer, settings, options.work_dir)


def _train_captioner(options: argparse.Namespace) -> None:
    settings = _settings(options, captioner.STAGE)
    tokenizer = make_caption_tokenizer(vocabulary())
    captioner.train_captioner(Rooms(options.rooms), tokenizer, settings, options.work_dir)


def _export(options: argparse.Namespace) -> None:
    if options.stage in (denoiser.STAGE, "all", "export"):
        tokenizer = make_clip_tokenizer(vocabulary())
        trained = denoiser.load_denoiser(tokenizer, options.work_dir)
        export_diffusion(
            options.out / "diffusion",
            autoencoder=autoencoder.load_autoencoder(options.work_dir),
            unet=trained.unet,
            text_encoder=trained.text_encoder,
            tokenizer=tokenizer,
        )
    if options.stage in (captioner.STAGE, "all", "export"):
        words = make_caption_tokenizer(vocabulary())
        model = captioner.load_captioner(words, options.work_dir)
        export_captioner(options.out / "captioner", model=model, tokenizer=words)
    print(f"exported to {options.out}: {folder_bytes(options.out) / 1e6:.1f} MB")


def _settings(options: argparse.Namespace, stage: str) -> LoopSettings:
    return LoopSettings(
        learning_rate=LEARNING_RATES[stage],
        steps=options.steps,
        minutes=options.minutes,
        seed=options.seed,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
    )


def _parser() -> argparse.ArgumentParser:
    stages = (autoencoder.STAGE, denoiser.STAGE, captioner.STAGE, "all", "export")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rooms", nargs="+", required=True, help="folders, tars or globs of rooms")
    parser.add_argument("--work-dir", type=Path, required=True, help="checkpoints and logs")
    parser.add_argument("--out", type=Path, required=True, help="where to export the models")
    parser.add_argument("--stage", choices=stages, default="all")
    parser.add_argument("--minutes", type=float, help="length of each stage, over all sittings")
    parser.add_argument("--steps", type=int, help="length of each stage in optimiser steps")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's)")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    run_job(main)
