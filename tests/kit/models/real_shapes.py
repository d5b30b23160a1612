"""The real configurations of Stable Diffusion v1.5 and BLIP-2-OPT-2.7B, with random weights.

Under ``torch.device("meta")`` the networks cost no memory: shapes and counts alone.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
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

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLIP2_NUM_WORDS = 50304
BLIP2_IMAGE_TOKEN = 50265
CLIP_NUM_WORDS = 49408


def make_unet() -> UNet2DConditionModel:
    """Make the U-Net of Stable Diffusion v1.5: 859.5 M parameters."""
    return UNet2DConditionModel(
        block_out_channels=(320, 640, 1280, 1280),
        down_block_types=(*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
        layers_per_block=2,
        in_channels=4,
        out_channels=4,
        cross_attention_dim=768,
        attention_head_dim=8,
        norm_num_groups=32,
        sample_size=64,
    )


def make_vae() -> AutoencoderKL:
    """Make its autoencoder, a factor of 8: 83.7 M parameters."""
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=512,
        scaling_factor=0.18215,
    )


def make_text_encoder() -> CLIPTextModel:
    """Make its text encoder, that of CLIP ViT-L/14: 123.1 M parameters."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=CLIP_NUM_WORDS,
            hidden_size=768,
            intermediate_size=3072,
            projection_dim=768,
            num_hidden_layers=12,
            num_attention_heads=12,
            max_position_embeddings=77,
            bos_token_id=CLIP_NUM_WORDS - 2,
            eos_token_id=CLIP_NUM_WORDS - 1,
            pad_token_id=CLIP_NUM_WORDS - 1,
        )
    )


def make_tokenizer() -> CLIPTokenizer:
    """Make a tokenizer with as many words as CLIP's, of which it knows the letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    known = [*letters, *(f"{letter}</w>" for letter in letters)]
    unused = [f"<unused{i}>" for i in range(CLIP_NUM_WORDS - 2 - len(known))]
    words = [*known, *unused, "<|startoftext|>", "<|endoftext|>"]
    vocab = {word: i for i, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


def make_scheduler() -> PNDMScheduler:
    """Make its noise schedule."""
    return PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        set_alpha_to_one=False,
        skip_prk_steps=True,
        steps_offset=1,
    )


def write_stable_diffusion(folder: Path, *, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Write a random Stable Diffusion v1.5 as its pipeline would, without safety checker."""
    with made_in(dtype):
        vae, unet, text_encoder = make_vae(), make_unet(), make_text_encoder()
    pipeline = StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        text_encoder=text_encoder,
        tokenizer=make_tokenizer(),
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def make_blip2() -> Blip2ForConditionalGeneration:
    """Make BLIP-2 with OPT-2.7B: ViT-g/14 (39 layers), Q-Former (12), OPT (32); 3.7 B."""
    return Blip2ForConditionalGeneration(
        Blip2Config(
            vision_config=Blip2VisionConfig(
                hidden_size=1408,
                intermediate_size=6144,
                num_hidden_layers=39,
                num_attention_heads=16,
                image_size=224,
                patch_size=14,
            ),
            qformer_config=Blip2QFormerConfig(
                vocab_size=30523,
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                encoder_hidden_size=1408,
            ),
            text_config=OPTConfig(
                vocab_size=BLIP2_NUM_WORDS,
                hidden_size=2560,
                word_embed_proj_dim=2560,
                ffn_dim=10240,
                num_hidden_layers=32,
                num_attention_heads=32,
                max_position_embeddings=2048,
                pad_token_id=1,
                bos_token_id=2,
                eos_token_id=50118,
            ),
            num_query_tokens=32,
            image_token_index=BLIP2_IMAGE_TOKEN,
        )
    )


def make_blip2_tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer with as many words as the model has rows."""
    words = {f"word{i}": i for i in range(BLIP2_NUM_WORDS)}
    special = {"<unk>": 0, "<pad>": 1, "</s>": 2, "<image>": BLIP2_IMAGE_TOKEN}
    vocab = {word: i for word, i in words.items() if i not in special.values()} | special
    backend = Tokenizer(WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="</s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
    )


def write_blip2(folder: Path, *, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Write a random BLIP-2 with its processor; weights in half precision take 7.5 GB."""
    with made_in(dtype):
        model = make_blip2()
    model.save_pretrained(folder)
    size = {"height": 224, "width": 224}
    Blip2Processor(
        BlipImageProcessorPil(size=size), make_blip2_tokenizer(), num_query_tokens=32
    ).save_pretrained(folder)
    return folder


@contextmanager
def made_in(dtype: torch.dtype) -> Iterator[None]:
    """Make networks in a dtype at once, instead of casting float32 ones of twice the size."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def count_parameters(module: torch.nn.Module) -> int:
    """Count the parameters; shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())
