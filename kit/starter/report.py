"""Measure starter models on held-out rooms: what the README states about them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from evaluation.frechet import fit_gaussian, frechet_distance, pooled_features
from kit.starter.captioner import slot_accuracy
from perception.diffusion.halfway import synthesize_halfway
from perception.diffusion.latents import decode_images, encode_latents, encode_moments
from perception.seeding import sample_generator, sample_seed
from runs.pictures import PictureRow, draw_rows
from schemas.config import CreatorSection

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL import Image

    from kit.starter.data import Rooms
    from perception.captioner import Captioner
    from perception.diffusion.backbone import DiffusionBackbone

STARTS = (300, 600, 800, 1000)
BAND_EDGES = (0, 250, 500, 750, 1000)
BATCH_SIZE = 32
CELL_PX = 128

Images = NDArray[np.uint8]
"""uint8 RGB [N, H, W, 3]."""


@dataclass(frozen=True)
class ReportedRooms:
    """Held-out rooms with what the models make of them.

    Attributes:
        real: The rooms.
        captions: Their right captions.
        answers: The captioner's captions.
        restored: The rooms through the autoencoder.
        synthetic: Synthetic rooms by halfway start T, made under the captioner's captions.
    """

    real: Images
    captions: tuple[str, ...]
    answers: tuple[str, ...]
    restored: Images
    synthetic: dict[int, Images]


def make_report(
    backbone: DiffusionBackbone,
    captioner: Captioner,
    held_out: Rooms,
    reference: Rooms,
    *,
    num_steps: int,
) -> tuple[dict[str, Any], ReportedRooms]:
    """Run the models over held-out rooms and score them.

    Args:
        held_out: Rooms the models were not trained on.
        reference: Other real rooms, which synthetic ones should resemble.

    Returns:
        The figures, and the images they come from.
    """
    rooms = run_models(backbone, captioner, held_out, num_steps=num_steps)
    figures = {
        "held_out_rooms": len(rooms.real),
        "autoencoder_psnr_db": psnr_db(rooms.real, rooms.restored),
        "denoising_loss_per_band": loss_per_band(backbone, rooms.real, rooms.captions),
        "caption_slot_accuracy": slot_accuracy(rooms.captions, rooms.answers),
        "frechet": frechet_figures(backbone, rooms, channels_last(reference)),
        "num_steps": num_steps,
        "scaling_factor": backbone.scaling_factor,
    }
    return figures, rooms


def run_models(
    backbone: DiffusionBackbone, captioner: Captioner, held_out: Rooms, *, num_steps: int
) -> ReportedRooms:
    """Caption, restore and synthesise all rooms; arguments as in `make_report`."""
    real = channels_last(held_out)
    answers = tuple(captioner.caption(list(real)))
    synthetic = {}
    for start in STARTS:
        settings = CreatorSection(t_start=start, num_steps=num_steps)
        seeds = [sample_seed("starter-report", str(i), start) for i in range(len(real))]
        synthetic[start] = _in_batches(
            len(real),
            lambda part, settings=settings, seeds=seeds: synthesize_halfway(
                backbone, real[part], answers[part], settings=settings, seeds=seeds[part]
            ),
        )
    restored = _in_batches(len(real), lambda part: _restore(backbone, real[part]))
    return ReportedRooms(real, tuple(held_out.captions), answers, restored, synthetic)


def psnr_db(images: Images, restored: Images) -> float:
    """Return the peak signal-to-noise ratio, averaged over images, in dB.

    PSNR = 10 log10(255² / MSE), one value per image over its three channels.

    Args:
        images: uint8 [N, H, W, 3].
        restored: The same shape.
    """
    error = images.astype(np.float64) - restored.astype(np.float64)
    squared = np.square(error).mean(axis=(1, 2, 3)).clip(min=1e-6)
    return float((10 * np.log10(255.0**2 / squared)).mean())


def loss_per_band(
    backbone: DiffusionBackbone, images: Images, captions: Sequence[str], *, seed: int = 0
) -> dict[str, float]:
    """Return the mean squared error of the denoiser's prediction in bands of timesteps.

    Predicting the target's mean everywhere scores about 1: latents, noise and velocity have unit
    variance.

    Args:
        images: uint8 [N, H, W, 3].
        seed: Of posterior, noise and timesteps; each band scores all images.

    Returns:
        Mean over images by "first-last" timestep.
    """
    bands = {}
    for low, high in itertools.pairwise(BAND_EDGES):
        generator = sample_generator(seed)
        losses = []
        for part in _slices(len(images)):
            latents = encode_latents(backbone, images[part], generators=generator)
            timesteps = torch.randint(low, high, (len(latents),), generator=generator)
            noise = torch.randn(latents.shape, generator=generator).to(latents.device)
            timesteps = timesteps.to(latents.device)
            noisy = backbone.schedule.add_noise(latents, noise, timesteps)
            target = backbone.schedule.training_target(latents, noise, timesteps)
            predicted = backbone.predict(noisy, timesteps, backbone.embed_text(captions[part]))
            losses.append((predicted - target).square().flatten(1).mean(dim=1))
        bands[f"{low}-{high - 1}"] = float(torch.cat(losses).mean())
    return bands


def frechet_figures(
    backbone: DiffusionBackbone, rooms: ReportedRooms, reference: Images
) -> dict[str, float]:
    """Return Fréchet distances to the reference: of real rooms (the floor), restored and synthetic.

    All sets compared have as many images, so their bias is the same.
    """
    target = fit_gaussian(pooled_features(backbone, reference))
    sets = {"real": rooms.real, "restored": rooms.restored}
    sets |= {f"T={start}": images for start, images in rooms.synthetic.items()}
    return {
        name: frechet_distance(fit_gaussian(pooled_features(backbone, images)), target)
        for name, images in sets.items()
    }


def contact_sheet(rooms: ReportedRooms, *, count: int) -> Image.Image:
    """Draw rooms in rows: real, restored, and synthetic by start T, the caption below each row."""
    columns = {"real": rooms.real, "autoencoder": rooms.restored}
    columns |= {f"T = {start}": images for start, images in rooms.synthetic.items()}
    rows = []
    for number in range(count):
        room = number * len(rooms.real) // count
        images = [each[room] for each in columns.values()]
        titles = () if number else tuple(columns)
        rows.append(PictureRow(titles=titles, images=images, text=rooms.answers[room]))
    return draw_rows(rows, cell_px=(CELL_PX, CELL_PX))


def parameter_counts(folder: Path) -> dict[str, int]:
    """Return the number of parameters in each safetensors file below a folder, by its folder."""
    counts = {}
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
        counts[path.parent.name] = sum(math.prod(shape) for shape in shapes)
    return counts


def channels_last(rooms: Rooms) -> Images:
    """Return the images of rooms as uint8 [N, H, W, 3]."""
    images: Images = rooms.images.permute(0, 2, 3, 1).contiguous().numpy()
    return images


def _restore(backbone: DiffusionBackbone, images: Images) -> Images:
    moments = encode_moments(backbone, images)
    return decode_images(backbone, moments.mean * backbone.scaling_factor)


def _slices(count: int) -> list[slice]:
    return [slice(first, first + BATCH_SIZE) for first in range(0, count, BATCH_SIZE)]


def _in_batches(count: int, make: Any) -> Images:
    return np.concatenate([make(part) for part in _slices(count)])
