"""Tiny random models in the folder form that ``from_pretrained`` reads, built once per process.

They have the structure of the real ones (four U-Net levels with two layers a block, a BLIP-2 with
an OPT language model) and nothing of their knowledge.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    OPTConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from perception.captioner import Blip2Captioner
from perception.diffusion.backbone import DiffusionBackbone, load_backbone

# With more threads than free processors, networks this small run a hundred times slower.
torch.set_num_threads(1)

IMAGE_SIZE_PX = 32
DOWN_BLOCKS = {
    # Attention at the two middle levels only, as in the shipped starter model.
    "starter": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    # Attention at all levels but the lowest, as in Stable Diffusion.
    "stable": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
}
CAPTION_WORDS = ["a", "room", "with", "bed", "sofa", "table", "chair", "lamp", "window", "and"]


@functools.cache
def tiny_backbone(
    prediction_type: str = "v_prediction", layout: str = "starter"
) -> DiffusionBackbone:
    """Return the loaded model of ``tiny_diffusion_folder``; shared, so do not change it."""
    return load_backbone(tiny_diffusion_folder(prediction_type, layout), local_files_only=True)


@functools.cache
def tiny_captioner() -> Blip2Captioner:
    """Return the loaded model of ``tiny_captioner_folder``; shared, so do not change it."""
    return Blip2Captioner.load(tiny_captioner_folder(), max_new_tokens=6, local_files_only=True)


@functools.cache
def tiny_diffusion_folder(prediction_type: str = "v_prediction", layout: str = "starter") -> Path:
    """Write a random Stable Diffusion pipeline: 32x32 images, latents 4x8x8, 25 feature maps."""
    folder = _scratch_folder() / f"diffusion-{prediction_type}-{layout}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = StableDiffusionPipeline(
            vae=make_vae(),
            unet=make_unet(layout),
            text_encoder=make_text_encoder(),
            tokenizer=make_clip_tokenizer(),
            scheduler=make_scheduler(prediction_type),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


@functools.cache
def tiny_captioner_folder() -> Path:
    """Write a random BLIP-2 with its processor."""
    folder = _scratch_folder() / "captioner"
    tokenizer = make_word_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make_blip2(vocab_size=len(tokenizer))
        _silence_special_tokens(model, num_special=len(tokenizer) - len(CAPTION_WORDS))
    model.save_pretrained(folder)
    image_processor = BlipImageProcessorPil(size={"height": IMAGE_SIZE_PX, "width": IMAGE_SIZE_PX})
    Blip2Processor(image_processor, tokenizer, num_query_tokens=4).save_pretrained(folder)
    return folder


def make_vae() -> AutoencoderKL:
    """Make an autoencoder with a downsample factor of 4."""
    return AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=IMAGE_SIZE_PX,
        scaling_factor=0.18215,
    )


def make_unet(layout: str = "starter") -> UNet2DConditionModel:
    """Make a U-Net with four levels and two layers a block."""
    down = DOWN_BLOCKS[layout]
    return UNet2DConditionModel(
        block_out_channels=(8, 16, 24, 32),
        down_block_types=down,
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(down)),
        layers_per_block=2,
        in_channels=4,
        out_channels=4,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
        sample_size=IMAGE_SIZE_PX // 4,
    )


def make_text_encoder() -> CLIPTextModel:
    """Make a text encoder for ``make_clip_tokenizer``."""
    tokenizer = make_clip_tokenizer()
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=12,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_clip_tokenizer() -> CLIPTokenizer:
    """Make a CLIP tokenizer that knows letters and two merges."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{c}</w>" for c in letters), "be", "bed</w>"]
    vocab = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocab, merges=[("b", "e"), ("be", "d</w>")], model_max_length=12)


def make_scheduler(prediction_type: str) -> DDIMScheduler:
    """Make the noise schedule of Stable Diffusion v1."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )


def make_word_tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer with one token a word, for captions."""
    words = ["<pad>", "<s>", "</s>", "<image>", "<unk>", *CAPTION_WORDS]
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        model_max_length=16,
    )


def make_blip2(*, vocab_size: int) -> Blip2ForConditionalGeneration:
    """Make a BLIP-2 for 32x32 images."""
    small: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = Blip2VisionConfig(
        **small,
        intermediate_size=32,
        image_size=IMAGE_SIZE_PX,
        patch_size=8,
        initializer_range=0.5,
    )
    qformer = Blip2QFormerConfig(
        **small,
        vocab_size=vocab_size,
        intermediate_size=32,
        encoder_hidden_size=16,
        cross_attention_frequency=1,
        initializer_range=0.5,
    )
    language = OPTConfig(
        **small,
        vocab_size=vocab_size,
        word_embed_proj_dim=16,
        ffn_dim=32,
        init_std=0.5,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    config = Blip2Config(
        vision_config=vision,
        qformer_config=qformer,
        text_config=language,
        num_query_tokens=4,
        image_token_index=3,
    )
    return Blip2ForConditionalGeneration(config)


@torch.no_grad()
def _silence_special_tokens(model: Blip2ForConditionalGeneration, *, num_special: int) -> None:
    """Make captions consist of words: a special token's logit is 0, a word's often above."""
    model.get_input_embeddings().weight[:num_special] = 0


@functools.cache
def _scratch_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tiny-models-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
