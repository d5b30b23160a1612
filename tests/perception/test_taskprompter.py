"""TaskPrompter: its prompts and scores, its decoder, and the whole host."""

from __future__ import annotations

import pytest
import torch
from transformers import ViTModel

from perception.heads.task_outputs import finish_outputs
from perception.heads.task_prompts import PromptBlock, PromptEncoder, PromptScores, split_windows
from perception.heads.taskprompter_decoder import (
    CrossTaskExchange,
    LevelReader,
    TaskPrompterPlan,
    spread_windows,
)
from perception.losses.multi_task import MULTI_TASK_WEIGHTS
from perception.methods.taskprompter import TaskPrompter, make
from perception.vit import prepare_images, vit_config
from tests.kit.models.multi_task import (
    NYUD_TASKS,
    PASCAL_TASKS,
    SIX_TASKS,
    all_labels,
    full_pyramid,
    image_pyramid,
    make_small_method_on_vit,
    num_parameters,
)
from tests.kit.models.pyramids import full_spec


def make_small(tasks=SIX_TASKS, **options) -> TaskPrompter:
    return make_small_method_on_vit("taskprompter", tasks, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tasks", "size", "windows", "widths"),
    [(PASCAL_TASKS, (512, 512), 1, (300, 350)), (NYUD_TASKS, (448, 576), 16, (768, 768))],
)
def test_full_size_shapes(tasks, size, windows, widths) -> None:
    grid = (size[0] // 16, size[1] // 16)
    with torch.device("meta"):
        host = make(
            full_spec(tasks, num_classes=40 if "depth" in tasks else 21), use_spectral_norm=False
        )
        taps = host.features(full_pyramid(size))
        raw = host.decoder(taps)
        outputs = finish_outputs(raw, size)
    num_tasks = len(tasks)
    for tap in taps:
        assert tuple(tap.patches.shape) == (1, 1024, *grid)
        assert tuple(tap.scores.spatial.shape) == (1, 16, num_tasks, *grid)
        assert tuple(tap.scores.prompts.shape) == (1, 16, num_tasks, num_tasks)
        assert tuple(tap.scores.channel.shape) == (1, windows, num_tasks, 1024)
    level = host.decoder.levels[0]
    assert level.spatial.out_channels == num_tasks * widths[0]
    assert level.join[0].out_channels == num_tasks * widths[1]
    assert len(host.decoder.exchanges) == (4 if windows == 1 else 0)
    assert host.encoder.blocks[0].maps.grid == grid
    for task in tasks:
        channels = host.decoder.heads[task].out_channels
        assert tuple(raw[task].shape) == (1, channels, 4 * grid[0], 4 * grid[1])
        assert tuple(outputs[task].shape) == (1, channels, *size)


@pytest.mark.slow
def test_full_size_parameters_are_those_of_the_published_widths() -> None:
    with torch.device("meta"):
        host = make(full_spec(PASCAL_TASKS, num_classes=21), use_spectral_norm=False)
        vit = ViTModel(vit_config(1.0, 16), add_pooling_layer=False)
    patches = 32 * 32
    there, back = (1024 + 1) * patches, (patches + 1) * 1024
    no_class_token = num_parameters(vit) - 2 * 1024
    assert num_parameters(host.encoder) == no_class_token + 5 * 1024 + 24 * there + 23 * back
    level = 2 * (1024 + 1) * 300 + (600 + 1) * 350 + 9 * 350 * 350 + 2 * 350 + (350 + 1) * 350
    exchange = 16 * 17 + 17
    heads = 5 * (9 * 350 * 350 + 2 * 350) + (350 + 1) * (21 + 7 + 1 + 3 + 1)
    assert num_parameters(host.decoder) == 4 * (5 * level + exchange) + heads


def test_windows_are_cut_and_laid_out_in_row_order() -> None:
    maps = torch.arange(2 * 4 * 6.0).view(1, 2, 4, 6)
    windows = split_windows(maps, 4)
    assert tuple(windows.shape) == (1, 4, 2, 6)
    assert torch.equal(windows[0, 1, 1], maps[0, 1, :2, 3:].flatten())
    assert torch.equal(windows[0, 2, 0], maps[0, 0, 2:, :3].flatten())
    spread = spread_windows(torch.arange(4.0).view(1, 4, 1, 1), (4, 6))
    assert torch.equal(
        spread[0, 0, 0], torch.tensor([[0, 0, 0, 1, 1, 1]] * 2 + [[2, 2, 2, 3, 3, 3]] * 2)
    )


def make_block(*, is_last: bool = False) -> PromptBlock:
    torch.manual_seed(0)
    layer = ViTModel(vit_config(0.1, 8), add_pooling_layer=False).layers[0]
    return PromptBlock(layer, (4, 4), num_windows=4, drop_rate=0.0, is_last=is_last).eval()


@torch.no_grad()
def test_a_block_without_prompt_maps_is_the_vits_own_block() -> None:
    block, tokens = make_block(is_last=True), torch.randn(2, 3 + 16, 96)
    torch.testing.assert_close(
        block(tokens, num_tasks=3), block.layer(tokens, None), atol=1e-5, rtol=1e-4
    )


@torch.no_grad()
def test_prompt_maps_move_the_prompts_and_leave_the_patches() -> None:
    block, tokens = make_block(), torch.randn(2, 3 + 16, 96)
    alone, moved = block.layer(tokens, None), block(tokens, num_tasks=3)
    torch.testing.assert_close(moved[:, 3:], alone[:, 3:], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(moved[:, :3], alone[:, :3], atol=1e-4)


@torch.no_grad()
def test_attention_rows_sum_to_one() -> None:
    block, tokens = make_block(is_last=True), torch.randn(1, 3 + 16, 96)
    block.layer.attention.v_proj.weight.zero_()
    block.layer.attention.v_proj.bias.normal_()
    block.layer.mlp.fc2.weight.zero_()
    block.layer.mlp.fc2.bias.zero_()
    wanted = block.layer.attention.o_proj(block.layer.attention.v_proj.bias)
    torch.testing.assert_close(block(tokens, num_tasks=3) - tokens, wanted.expand_as(tokens))


@torch.no_grad()
def test_scores_are_products_without_scale_and_softmax() -> None:
    block, tokens = make_block(), torch.randn(1, 3 + 16, 96)
    found = block.scores(tokens, num_tasks=3, size=(4, 4))
    normed = block.layer.layernorm_before(tokens)[0]
    query, key = (
        getattr(block.layer.attention, name)(normed)[:, 48:] for name in ("q_proj", "k_proj")
    )
    torch.testing.assert_close(found.prompts[0, 1], query[:3] @ key[:3].T)
    torch.testing.assert_close(found.spatial[0, 1].flatten(1), query[:3] @ key[3:].T)
    in_window = [0, 1, 4, 5]
    wanted = block.maps.spread(normed[:3])[:, in_window] @ normed[3:][in_window]
    torch.testing.assert_close(found.channel[0, 0], wanted)


def test_prompts_start_with_mean_and_deviation_of_one() -> None:
    torch.manual_seed(0)
    vit = ViTModel(vit_config(0.1, 8), add_pooling_layer=False)
    prompts = PromptEncoder(vit, 200, grid=(4, 4), num_windows=4).prompts
    assert prompts.mean().item() == pytest.approx(1.0, abs=0.03)
    # A normal cut at two deviations keeps 0.88 of its deviation.
    assert prompts.std().item() == pytest.approx(0.88, abs=0.03)
    assert prompts.min() >= -1
    assert prompts.max() <= 3


@torch.no_grad()
def test_spatial_scores_scale_the_channels_of_their_head() -> None:
    torch.manual_seed(0)
    plan = TaskPrompterPlan(
        branch_width=8, task_width=8, num_windows=1, reweights=False, grid=(2, 2)
    )
    reader = LevelReader(8, plan, 1).eval()
    reader.spatial.weight.copy_(torch.eye(8).view(8, 8, 1, 1))
    reader.channel.weight.copy_(torch.eye(8).view(8, 8, 1, 1))
    reader.spatial.bias.zero_()
    reader.channel.bias.zero_()
    seen = []
    reader.join[0].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    patches = torch.randn(1, 8, 2, 2)
    scores = PromptScores(
        spatial=torch.randn(1, 2, 1, 2, 2),
        prompts=torch.zeros(1, 2, 1, 1),
        channel=torch.randn(1, 1, 1, 8),
    )
    reader(patches, scores)
    by_head = torch.cat(
        [scores.spatial[0, 0].expand(4, 2, 2), scores.spatial[0, 1].expand(4, 2, 2)]
    )
    torch.testing.assert_close(seen[0][0, :8], patches[0] * (1 + by_head))
    by_channel = scores.channel[0, 0, 0].view(8, 1, 1)
    torch.testing.assert_close(seen[0][0, 8:], patches[0] * (1 + by_channel))


@torch.no_grad()
def test_the_exchange_sums_over_tasks_with_a_weight_for_each_pair() -> None:
    torch.manual_seed(0)
    exchange = CrossTaskExchange(2)
    features, pairs = torch.randn(1, 3, 4, 2, 2), torch.randn(1, 2, 3, 3)
    scores = PromptScores(features, pairs, features)
    weights = exchange.weigh(pairs)[0, 0]
    wanted = torch.stack([sum(weights[t, s] * features[0, s] for s in range(3)) for t in range(3)])
    torch.testing.assert_close(exchange(features, scores)[0], wanted)


@pytest.mark.parametrize(("tasks", "windows"), [(NYUD_TASKS, 16), (PASCAL_TASKS, 1)])
def test_human_parts_select_the_plan_of_pascal_context(tasks, windows: int) -> None:
    host = make_small(tasks)
    assert host.encoder.num_windows == windows
    assert bool(host.decoder.exchanges) == (windows == 1)


@pytest.mark.parametrize("tasks", [NYUD_TASKS, PASCAL_TASKS])
@pytest.mark.parametrize("size", [(64, 64), (50, 70)])
def test_predictions_have_the_size_asked_for_whatever_the_images_size(tasks, size) -> None:
    host = make_small(tasks)
    found = host.predict(image_pyramid(2, size=size), (41, 57))
    assert set(found.labels) == set(tasks)
    assert all(tuple(label.shape[-2:]) == (41, 57) for label in found.labels.values())
    assert all(tuple(each.shape) == (2, 1, 41, 57) for each in found.reliability.values())
    outputs = host.forward_train(image_pyramid(2, size=size))
    assert all(tuple(value.shape[-2:]) == size for value in outputs.values())


def test_the_loss_has_the_published_weights_unless_others_are_given() -> None:
    host = make_small(task_weights={"depth": 3.0}).eval()
    total, terms = host.loss(host.forward_train(image_pyramid(2)), all_labels(2))
    weights = MULTI_TASK_WEIGHTS | {"depth": 3.0}
    assert total.item() == pytest.approx(
        sum(weights[task] * terms[task] for task in SIX_TASKS), rel=1e-5
    )


def test_a_pretrained_encoders_features_start_unchanged(tmp_path) -> None:
    ViTModel(vit_config(0.1, 8), add_pooling_layer=False).save_pretrained(tmp_path)
    host, pyramid = make_small(encoder=str(tmp_path)).eval(), image_pyramid(2)
    alone = host.encoder(prepare_images(pyramid.images, 8))
    together = host.features(pyramid)
    pairs = [(one.patches, two.patches) for one, two in zip(alone, together, strict=True)]
    assert all(torch.equal(*pair) for pair in pairs)
    saved = ViTModel.from_pretrained(tmp_path, add_pooling_layer=False)
    loaded = host.encoder.blocks[1].layer.state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in saved.layers[1].state_dict().items())
