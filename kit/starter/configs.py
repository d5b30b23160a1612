"""Sizes of the starter models: tiny configurations of the classes real checkpoints use."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
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

from kit.starter.tokenizer import IMAGE, MAX_TOKENS

IMAGE_SIZE = 64
LATENT_CHANNELS = 4
TEXT_WIDTH = 128
CAPTION_WIDTH = 128
QUERY_TOKENS = 16
INITIAL_LOG_VARIANCE = -4.0
INITIAL_DEVIATION = 0.05


def make_autoencoder() -> AutoencoderKL:
    """Return an untrained autoencoder: RGB [B, 3, 64, 64] to latents [B, 4, 16, 16].

    Its posterior starts narrow, so that early reconstructions are not drowned in sampling noise.
    """
    model = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=16,
        sample_size=IMAGE_SIZE,
    )
    with torch.no_grad():
        model.quant_conv.bias[LATENT_CHANNELS:] = INITIAL_LOG_VARIANCE
    return model


def make_unet() -> UNet2DConditionModel:
    """Return an untrained denoiser of [B, 4, 16, 16] latents with the 25 outputs of SD v1.5."""
    return UNet2DConditionModel(
        sample_size=IMAGE_SIZE // 4,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(32, 64, 96, 128),
        layers_per_block=2,
        down_block_types=(
            "DownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "DownBlock2D",
        ),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        # Despite its name, diffusers reads this as the number of heads; each is 32 wide.
        attention_head_dim=(1, 2, 3, 4),
        norm_num_groups=16,
    )


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return an untrained text encoder: ids [B, MAX_TOKENS] to [B, MAX_TOKENS, 128]."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def make_scheduler() -> DDIMScheduler:
    """Return Stable Diffusion's noise schedule with velocity prediction."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def make_captioner(tokenizer: PreTrainedTokenizerFast) -> Blip2ForConditionalGeneration:
    """Return an untrained BLIP-2 of 64x64 images over the tokenizer's vocabulary.

    The defaults of BLIP-2 are meant to be overwritten by a checkpoint: vision weights near zero and
    all query tokens alike. Training from scratch needs both apart.
    """
    width = CAPTION_WIDTH
    layers = {"num_attention_heads": 4, "intermediate_size": 3 * width, "hidden_size": width}
    vision = Blip2VisionConfig(
        num_hidden_layers=4,
        image_size=IMAGE_SIZE,
        patch_size=8,
        initializer_range=INITIAL_DEVIATION,
        **layers,
    )
    qformer = Blip2QFormerConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=2,
        encoder_hidden_size=width,
        cross_attention_frequency=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=INITIAL_DEVIATION,
        **layers,
    )
    text = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        word_embed_proj_dim=width,
        ffn_dim=3 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=2 * (MAX_TOKENS + QUERY_TOKENS),
        dropout=0.0,
        init_std=INITIAL_DEVIATION,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = Blip2Config(
        vision_config=vision.to_dict(),
        qformer_config=qformer.to_dict(),
        text_config=text.to_dict(),
        num_query_tokens=QUERY_TOKENS,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
    )
    model = Blip2ForConditionalGeneration(config)
    nn.init.normal_(model.query_tokens, std=INITIAL_DEVIATION)
    return model


def make_processor(tokenizer: PreTrainedTokenizerFast) -> Blip2Processor:
    """Return the captioner's processor: uint8 images to [B, 3, 64, 64], text to ids."""
    image_processor = BlipImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return Blip2Processor(image_processor, tokenizer, num_query_tokens=QUERY_TOKENS)
