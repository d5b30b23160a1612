"""Feature maps of the frozen U-Net: one pass on almost clean latents, every block's output kept.

A *level* is one resolution of the U-Net, numbered from 0 for the lowest. Maps are grouped by the
level of the block they come from, so any image size works.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

from torch import Tensor

from perception.diffusion.latents import Images, LatentMoments, Posterior, encode_moments
from perception.seeding import Generators, draw_noise
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from perception.diffusion.backbone import DiffusionBackbone
    from perception.diffusion.tuning import TunedUnet


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSettings:
    """How features are taken; the defaults are those of Diff-2-in-1 (section 3 and its code).

    VPD's convention is ``timestep=1, posterior="mode", scale_latents=False, add_noise=False``.

    Attributes:
        timestep: Schedule index of the pass, in [0, 1000); the paper tries 0, 50, 100, 150.
        posterior: Draw the latents from the autoencoder's posterior, or take its mean.
        scale_latents: Multiply the latents by the scaling factor.
        add_noise: Noise the latents to ``timestep`` before the pass.
    """

    timestep: int = 0
    posterior: Posterior = "sample"
    scale_latents: bool = True
    add_noise: bool = True

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: Naming field, value and allowed range.
        """
        if not 0 <= self.timestep < 1000:
            raise ConfigError(
                f"feature timestep: wanted a value in [0, 1000), found {self.timestep}"
            )
        if self.posterior not in get_args(Posterior):
            raise ConfigError(
                f"feature posterior: wanted one of {get_args(Posterior)}, found {self.posterior!r}"
            )

    @property
    def is_deterministic(self) -> bool:
        """Whether the same image always gives the same features."""
        return self.posterior == "mode" and not self.add_noise


@dataclass(frozen=True, slots=True, eq=False)
class FeaturePyramid:
    """Block outputs of one U-Net pass, grouped by level.

    Attributes:
        maps: One tuple per level, lowest resolution first; inside a level, in the order of the
            pass. Four levels with two layers a block give 6, 6, 6 and 7 maps. Each map is
            [B, C, h, w]; of the frozen U-Net in the backbone's dtype, without gradient.
            Empty where the method reads no diffusion features.
        images: float32 [B, 3, H, W] in [-1, 1], for methods with an encoder of their own.
        seeds: int64 [B], each image's source of noise, for methods that predict from noise.
    """

    maps: tuple[tuple[Tensor, ...], ...]
    images: Tensor | None = None
    seeds: Tensor | None = None

    @property
    def channels(self) -> tuple[tuple[int, ...], ...]:
        """Channels of each map, in the same arrangement."""
        return tuple(tuple(each.shape[1] for each in level) for level in self.maps)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each level, lowest first."""
        return tuple((level[0].shape[-2], level[0].shape[-1]) for level in self.maps)

    def __len__(self) -> int:
        """Return the number of levels."""
        return len(self.maps)

    def __getitem__(self, level: int) -> tuple[Tensor, ...]:
        """Return the maps of one level."""
        return self.maps[level]


def extract_features(
    backbone: DiffusionBackbone,
    source: Images | LatentMoments,
    *,
    generators: Generators = None,
    settings: FeatureSettings | None = None,
    images: Tensor | None = None,
    tuned: TunedUnet | None = None,
) -> FeaturePyramid:
    """Run the U-Net once under the empty prompt and return all block outputs.

    Args:
        source: B images (see ``latents.Images``), or their moments encoded before.
        generators: Source of posterior and schedule noise: one per sample, one for the batch, or
            None for torch's global state.
        settings: How; the defaults of ``FeatureSettings`` if None.
        tuned: Runs in place of the frozen U-Net, with gradients where they are enabled.

    Returns:
        The maps; they may be saved for the backward pass of an adapter.
    """
    settings = settings or FeatureSettings()
    moments = source if isinstance(source, LatentMoments) else encode_moments(backbone, source)
    latents = moments.draw(posterior=settings.posterior, generators=generators)
    if settings.scale_latents:
        latents = latents * backbone.scaling_factor
    pyramid = extract_features_from_latents(
        backbone, latents, generators=generators, settings=settings, tuned=tuned
    )
    return replace(pyramid, images=images)


def extract_features_from_latents(
    backbone: DiffusionBackbone,
    latents: Tensor,
    *,
    generators: Generators = None,
    settings: FeatureSettings | None = None,
    tuned: TunedUnet | None = None,
) -> FeaturePyramid:
    """Do what ``extract_features`` does, from clean latents.

    Args:
        latents: Clean latents [B, C, h, w], already scaled if they should be.
        settings: How; ``posterior`` and ``scale_latents`` play no part any more.
        tuned: See ``extract_features``.

    Returns:
        The maps.
    """
    settings = settings or FeatureSettings()
    if settings.add_noise:
        noise = draw_noise(latents.shape, generators=generators, device=latents.device)
        latents = backbone.schedule.add_noise(latents, noise, settings.timestep)
    context = backbone.embed_text([""]).expand(len(latents), -1, -1)
    unet = backbone.unet if tuned is None else tuned.unet
    with backbone.lock, recorded_maps(unet) as levels:
        if tuned is None:
            backbone.run_unet(latents, settings.timestep, context)
        else:
            tuned(latents, settings.timestep, context)
    return FeaturePyramid(tuple(tuple(level) for level in levels))


@contextmanager
def recorded_maps(unet: Any) -> Iterator[list[list[Tensor]]]:
    """Collect the block outputs of every pass made inside the ``with`` block.

    Args:
        unet: A ``UNet2DConditionModel``.

    Yields:
        One list per level, lowest first, filled during the pass. The hooks are gone afterwards,
        also after an error.
    """
    levels: list[list[Tensor]] = [[] for _ in unet.down_blocks]

    def keep(level: int) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            # Attention layers return a tuple, all other blocks the tensor itself.
            levels[level].append(output if isinstance(output, Tensor) else output[0])

        return hook

    handles = [block.register_forward_hook(keep(level)) for level, block in map_blocks(unet)]
    try:
        yield levels
    finally:
        for handle in handles:
            handle.remove()


def map_blocks(unet: Any) -> list[tuple[int, Any]]:
    """List the modules whose outputs are the feature maps, with their levels.

    These are the outputs of the original latent diffusion code's input, middle and output blocks:
    the stem, every layer (its attention where it has one) and down-sampler on the way down, the
    middle block, and every layer on the way up, where an up-sampler replaces the last layer.

    Args:
        unet: A ``UNet2DConditionModel``.

    Returns:
        Pairs of level (0 for the lowest resolution) and module, in the order of the pass.
    """
    top = len(unet.down_blocks) - 1
    found: list[tuple[int, Any]] = [(top, unet.conv_in)]
    for i, block in enumerate(unet.down_blocks):
        found += [(top - i, layer) for layer in _layers(block)]
        if block.downsamplers is not None:
            found.append((top - i - 1, block.downsamplers[-1]))
    found.append((0, unet.mid_block))
    for i, block in enumerate(unet.up_blocks):
        layers = [(i, layer) for layer in _layers(block)]
        if block.upsamplers is not None:
            layers[-1] = (i + 1, block.upsamplers[-1])
        found += layers
    return found


def _layers(block: Any) -> Sequence[Any]:
    attentions = getattr(block, "attentions", None)
    return list(block.resnets if attentions is None else attentions)


def pyramid_channels(config: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Compute the channels of every feature map from the U-Net's configuration alone.

    Args:
        config: ``unet.config``, or the contents of ``unet/config.json``.

    Returns:
        One tuple per level, lowest first, in the order of ``FeaturePyramid.maps``. Stable Diffusion
        v1.5 sums to 7680, 7040, 4160 and 2560.
    """
    widths = list(config["block_out_channels"])
    depths = config.get("layers_per_block", 2)
    top = len(widths) - 1
    depths = [depths] * len(widths) if isinstance(depths, int) else list(depths)
    levels: list[list[int]] = [[] for _ in widths]
    levels[top].append(widths[0])
    for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        levels[top - i] += [width] * depth
        if i < top:
            levels[top - i - 1].append(width)
    levels[0].append(widths[-1])
    for i, (width, depth) in enumerate(zip(widths[::-1], depths[::-1], strict=True)):
        levels[i] += [width] * (depth if i < top else depth + 1)
        if i < top:
            levels[i + 1].append(width)
    return tuple(tuple(level) for level in levels)
