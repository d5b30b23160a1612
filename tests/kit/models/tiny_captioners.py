"""Tiny random image-to-text models in ``save_pretrained`` form, one of each way to generate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipTextConfig,
    BlipVisionConfig,
    GitConfig,
    GitForCausalLM,
    GitVisionConfig,
    GPT2Config,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from tests.kit.tiny_models import IMAGE_SIZE_PX, make_word_tokenizer

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.5,
}
VISION: dict[str, Any] = {**SMALL, "image_size": IMAGE_SIZE_PX, "patch_size": 8}
SIZE = {"height": IMAGE_SIZE_PX, "width": IMAGE_SIZE_PX}


def write_captioner(kind: str, folder: Path) -> Path:
    """Write a model of a kind (blip, git, vision-encoder-decoder) with its processor."""
    tokenizer = make_word_tokenizer()
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    makers = {"blip": make_blip, "git": make_git, "vision-encoder-decoder": make_vit_gpt2}
    processors = {
        "blip": BlipImageProcessorPil(size=SIZE),
        "git": CLIPImageProcessorPil(size=SIZE, crop_size=SIZE),
        "vision-encoder-decoder": ViTImageProcessorPil(size=SIZE),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = makers[kind](len(tokenizer), ids)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processors[kind].save_pretrained(folder)
    return folder


def make_blip(num_words: int, ids: dict[str, Any]) -> BlipForConditionalGeneration:
    """Make a BLIP: a text decoder that attends to the image."""
    text = BlipTextConfig(
        **SMALL,
        **ids,
        vocab_size=num_words,
        encoder_hidden_size=16,
        projection_dim=16,
        sep_token_id=ids["eos_token_id"],
        max_position_embeddings=32,
    )
    vision = BlipVisionConfig(**VISION)
    return BlipForConditionalGeneration(
        BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    )


def make_git(num_words: int, ids: dict[str, Any]) -> GitForCausalLM:
    """Make a GIT: one decoder over image tokens and words."""
    vision = GitVisionConfig(**VISION)
    return GitForCausalLM(
        GitConfig(
            **SMALL,
            **ids,
            vision_config=vision.to_dict(),
            vocab_size=num_words,
            max_position_embeddings=32,
        )
    )


def make_vit_gpt2(num_words: int, ids: dict[str, Any]) -> VisionEncoderDecoderModel:
    """Make a ViT with a GPT-2 that attends to it."""
    decoder = GPT2Config(
        **ids,
        vocab_size=num_words,
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=32,
        initializer_range=0.5,
        add_cross_attention=True,
        is_decoder=True,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**VISION), decoder)
    config.decoder_start_token_id = ids["bos_token_id"]
    config.pad_token_id = ids["pad_token_id"]
    model = VisionEncoderDecoderModel(config)
    model.generation_config.decoder_start_token_id = ids["bos_token_id"]
    model.generation_config.pad_token_id = ids["pad_token_id"]
    return model
