"""TaskDiffusion: what it draws, denoises and learns from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import ViTModel

from perception.diffusion.cosine_time import log_snr, signal_and_noise
from perception.diffusion.features import FeaturePyramid
from perception.heads.cross_task_decoder import CrossTaskDecoder
from perception.heads.task_outputs import finish_outputs
from perception.losses.multi_task import MULTI_TASK_WEIGHTS
from perception.methods.on_vit import MethodOnViT
from perception.methods.taskdiffusion import TaskDiffusion
from perception.seeding import draw_noise, sample_generator
from perception.vit import prepare_images, vit_config
from schemas.config_method import TaskDiffusionSection
from schemas.sample import INVALID_VALUES, TASK_KINDS
from tests.kit.models.multi_task import (
    NYUD_TASKS,
    PASCAL_TASKS,
    SIX_TASKS,
    all_labels,
    image_pyramid,
    make_small_method_on_vit,
)

THREE_TASKS = ("saliency", "depth", "semseg")


def make_small(tasks=THREE_TASKS, *, reads_diffusion: bool = False, **options) -> TaskDiffusion:
    """A small method; ``options`` are of its own section, or of section ``method``."""
    own = {k: options.pop(k) for k in TaskDiffusionSection.model_fields.keys() & options.keys()}
    own = {"width": 16} | own
    return make_small_method_on_vit(
        "taskdiffusion",
        tasks,
        reads_diffusion=reads_diffusion,
        taskdiffusion=TaskDiffusionSection(**own),
        **options,
    )


def pyramid_of(count: int = 2, *, seeds=None, size=(64, 64)) -> FeaturePyramid:
    found = image_pyramid(count, size=size)
    return replace(found, seeds=torch.arange(count) if seeds is None else torch.tensor(seeds))


def outputs_of(method: MethodOnViT, pyramid: FeaturePyramid) -> Tensor:
    """All raw outputs of a prediction in one tensor."""
    with torch.no_grad():
        raw = method.eval().raw_outputs(pyramid)
    return torch.cat([raw[task] for task in method.tasks], dim=1)


def partly_ignored() -> dict[str, Tensor]:
    """Labels of two images; of the first the upper half is ignored."""
    labels = {task: label.clone() for task, label in all_labels(2).items()}
    for task, label in labels.items():
        label[0, ..., :32, :] = INVALID_VALUES[TASK_KINDS[task]]
    return labels


def loss_of(method: MethodOnViT, labels, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    loss, _ = method(pyramid_of(), labels, None, generator)
    return loss


def features_of(method: TaskDiffusion, pyramid: FeaturePyramid):
    taps = method.encoder(prepare_images(pyramid.images, method.encoder.patch_size))
    return method.decoder.read(taps)


def counted(module, *, name: str = "forward") -> list[tuple]:
    """The arguments of each call from now on."""
    calls: list[tuple] = []
    original = getattr(module, name)

    def called(*arguments, **keywords):
        calls.append((arguments, keywords))
        return original(*arguments, **keywords)

    setattr(module, name, called)
    return calls


def test_one_step_never_codes_labels() -> None:
    method, pyramid = make_small(steps=1).eval(), pyramid_of()
    before = outputs_of(method, pyramid)
    with torch.no_grad():
        for parameter in method.label_encoder.parameters():
            parameter.add_(1.0)
    assert torch.equal(outputs_of(method, pyramid), before)
    three = make_small(steps=3).eval()
    three.load_state_dict(method.state_dict())
    before = outputs_of(three, pyramid)
    with torch.no_grad():
        three.label_encoder.mix.bias.sub_(1.0)
    assert not torch.equal(outputs_of(three, pyramid), before)


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_an_image_is_read_once_however_many_steps_follow(steps: int) -> None:
    method = make_small(steps=steps)
    branches = [counted(branch) for branch in method.decoder.branches]
    encoded, decoded, coded = (
        counted(each) for each in (method.encoder, method.decoder, method.label_encoder)
    )
    outputs_of(method, pyramid_of())
    assert [len(calls) for calls in branches] == [1, 1, 1, 1]
    assert (len(encoded), len(decoded), len(coded)) == (1, steps, steps - 1)


def test_steps_are_told_their_times() -> None:
    method = make_small(steps=3)
    decoded = counted(method.decoder)
    outputs_of(method, pyramid_of())
    told = torch.stack([arguments[2] for arguments, _ in decoded])
    wanted = log_snr(torch.tensor([1, 2 / 3, 1 / 3]))
    torch.testing.assert_close(told, wanted.unsqueeze(1).expand(3, 2))


@pytest.mark.parametrize(("raises", "side"), [(False, 8), (True, 32)])
def test_early_steps_code_labels_of_depth_in_metres(raises: bool, side: int) -> None:
    method = make_small(SIX_TASKS, steps=2, raise_every_step=raises)
    decoded, coded = counted(method.decoder), counted(method.label_encoder)
    outputs_of(method, pyramid_of())
    (labels, size), _ = coded[0]
    assert size == (8, 8)
    assert all(tuple(label.shape[-2:]) == (side, side) for label in labels.values())
    with torch.no_grad():
        (features, noise, level), keywords = decoded[0]
        raw = method.decoder.__class__.forward(method.decoder, features, noise, level, **keywords)
    wanted = finish_outputs(raw, (side, side))
    torch.testing.assert_close(labels["depth"], wanted["depth"])
    assert torch.equal(labels["semseg"], raw["semseg"].argmax(dim=1))
    assert torch.equal(labels["saliency"], (raw["saliency"].sigmoid() > 0.85).float())
    torch.testing.assert_close(labels["boundaries"], raw["boundaries"].sigmoid())
    length = labels["normals"].norm(dim=1)
    torch.testing.assert_close(length, torch.ones_like(length))


def permuted_tasks(method: TaskDiffusion, order: list[int]) -> dict[str, Tensor]:
    """The weights of the same method with its tasks in another order."""
    num, mixed = len(order), [i for i in order if method.tasks[i] != "saliency"]
    by_task = ("branches.", ".leave.", "fusion.", "refine.", "auxiliary.main", "auxiliary.side")
    state = {}
    for name, value in method.state_dict().items():
        found = value
        if "exchanges" in name and ".weigh." in name and value.dim():
            found = value.unflatten(0, (-1, num, num))[:, order][:, :, order].flatten(0, 2)
        elif name == "label_encoder.mix.weight":
            places = [sorted(mixed).index(i) for i in mixed]
            found = value.unflatten(1, (len(mixed), -1))[:, places].flatten(1, 2)
        elif any(part in name for part in by_task) and value.dim():
            halves = 2 if ".film." in name else 1
            found = value.unflatten(0, (halves, num, -1))[:, order].flatten(0, 2)
        state[name] = found
    return state


@pytest.mark.parametrize("steps", [1, 3])
def test_tasks_in_another_order_predict_the_same(steps: int) -> None:
    tasks, order = ("saliency", "depth", "semseg", "normals"), [2, 0, 3, 1]
    method = make_small(tasks, steps=steps, scale=1.0).eval()
    other = make_small(tuple(tasks[i] for i in order), steps=steps, scale=1.0).eval()
    other.load_state_dict(permuted_tasks(method, order))
    with torch.no_grad():
        wanted, found = (each.raw_outputs(pyramid_of()) for each in (method, other))
    for task in tasks:
        torch.testing.assert_close(found[task], wanted[task], atol=1e-5, rtol=1e-4)
    auxiliary = [
        each.auxiliary(features_of(each, pyramid_of()).by_task) for each in (method, other)
    ]
    for task in tasks:
        torch.testing.assert_close(auxiliary[1][task], auxiliary[0][task], atol=1e-5, rtol=1e-4)


def test_labels_teach_their_own_code_and_predictions_teach_nothing() -> None:
    method = make_small(SIX_TASKS).train()
    loss_of(method, partly_ignored()).backward()
    gradients = {name: each.grad for name, each in method.label_encoder.named_parameters()}
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients.values())
    predicted = method.predict(pyramid_of(), (64, 64))
    assert not any(label.requires_grad for label in predicted.labels.values())


@torch.no_grad()
def test_at_the_end_of_training_time_no_label_can_be_read() -> None:
    method = make_small(SIX_TASKS, scale=0.01).eval()
    features, labels = features_of(method, pyramid_of()), all_labels(2)
    other = {task: label.flip(-1) for task, label in labels.items()}
    levels = log_snr(torch.full((2,), 0.999))
    signal, _ = signal_and_noise(levels[0])
    noise = torch.randn(2, method.decoder.code_channels, 8, 8)
    first, second = (
        signal * method.label_encoder(each, (8, 8)) + noise for each in (labels, other)
    )
    assert 0 < (first - second).abs().max() < 2 * 0.01 * 0.00166
    outputs = [method.decoder(features, each, levels) for each in (first, second)]
    for task in SIX_TASKS:
        torch.testing.assert_close(*(each[task] for each in outputs), atol=1e-3, rtol=1e-3)


def test_a_prediction_belongs_to_its_image_and_seed() -> None:
    method = make_small(SIX_TASKS)
    batch = outputs_of(method, pyramid_of(3, seeds=[7, 8, 7]))
    whole = pyramid_of(3)
    for index, seed in enumerate([7, 8, 7]):
        alone = FeaturePyramid((), whole.images[index : index + 1], torch.tensor([seed]))
        torch.testing.assert_close(outputs_of(method, alone)[0], batch[index], atol=1e-5, rtol=1e-4)
    assert torch.equal(batch, outputs_of(method, pyramid_of(3, seeds=[7, 8, 7])))
    assert not torch.allclose(batch, outputs_of(method, pyramid_of(3, seeds=[1, 2, 3])))


def test_images_without_seeds_have_seed_zero() -> None:
    method, pyramid = make_small(), pyramid_of(seeds=[0, 0])
    wanted = outputs_of(method, pyramid)
    assert torch.equal(outputs_of(method, replace(pyramid, seeds=None)), wanted)


def test_several_noise_maps_give_the_mean_of_their_outputs() -> None:
    method, pyramid = make_small(steps=1, samples=2), pyramid_of(1, seeds=[4])
    with torch.no_grad():
        features = features_of(method.eval(), pyramid)
        source = [sample_generator(4)]
        shape = (1, method.decoder.code_channels, 8, 8)
        level = log_snr(torch.ones(1))
        singles = [
            method.decoder(features, draw_noise(shape, generators=source), level) for _ in range(2)
        ]
    stacked = [torch.cat([each[task] for task in method.tasks], dim=1) for each in singles]
    torch.testing.assert_close(outputs_of(method, pyramid), (stacked[0] + stacked[1]) / 2)
    single = make_small(steps=1, samples=1)
    single.load_state_dict(method.state_dict())
    assert torch.equal(outputs_of(single, pyramid), stacked[0])


def test_the_loss_is_affine_in_the_weight_of_the_auxiliary_heads() -> None:
    methods = {weight: make_small(auxiliary_weight=weight).eval() for weight in (0, 0.25, 1)}
    losses = {weight: loss_of(method, all_labels(2)) for weight, method in methods.items()}
    slope = losses[1] - losses[0]
    torch.testing.assert_close(losses[0.25], losses[0] + 0.25 * slope)
    assert slope > 0
    for weight, method in methods.items():
        losses[weight].backward()
        found = [each.grad is not None for each in method.auxiliary.parameters()]
        assert set(found) == {weight > 0}


def test_without_diffusion_neither_labels_nor_seed_nor_steps_count() -> None:
    method = make_small(variant="none")
    assert method.label_encoder is None
    assert torch.equal(
        outputs_of(method, pyramid_of(seeds=[1, 2])), outputs_of(method, pyramid_of(seeds=[3, 4]))
    )
    other = make_small(variant="none", steps=1)
    assert torch.equal(outputs_of(method, pyramid_of()), outputs_of(other, pyramid_of()))
    labels = all_labels(2)
    flipped = {task: label.flip(-1) for task, label in labels.items()}
    trained = [
        method.forward_train(
            pyramid_of(), labels=each, generator=torch.Generator().manual_seed(seed)
        ).final
        for each, seed in ((labels, 0), (flipped, 1), (None, 2))
    ]
    for task in method.tasks:
        assert torch.equal(trained[0][task], trained[1][task])
        assert torch.equal(trained[0][task], trained[2][task])


def test_with_diffusion_labels_and_their_noise_are_input_in_training() -> None:
    method, labels = make_small(scale=1.0).eval(), all_labels(2)
    flipped = {task: label.flip(-1) for task, label in labels.items()}
    found = [
        method.forward_train(
            pyramid_of(), labels=each, generator=torch.Generator().manual_seed(seed)
        ).final["depth"]
        for each, seed in ((labels, 0), (labels, 0), (flipped, 0), (labels, 1))
    ]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[3])


@torch.no_grad()
def test_without_its_code_a_prediction_is_the_last_step_on_zeros() -> None:
    method, pyramid = make_small(steps=3, reads_code=False).eval(), pyramid_of()
    features = features_of(method, pyramid)
    zeros = torch.zeros(2, method.decoder.code_channels, 8, 8)
    raw = method.decoder(features, zeros, log_snr(torch.full((2,), 1 / 3)))
    wanted = torch.cat([raw[task] for task in method.tasks], dim=1)
    torch.testing.assert_close(outputs_of(method, pyramid), wanted)


def test_the_baseline_is_a_plain_decoder_of_the_same_encoder() -> None:
    method = make_small(SIX_TASKS, variant="baseline")
    assert not any(isinstance(each, CrossTaskDecoder) for each in method.modules())
    assert not method.predicts_from_noise
    loss_of(method.train(), all_labels(2)).backward()
    assert all(each.grad is not None for each in method.parameters())
    assert set(method.predict(pyramid_of(), (41, 57)).labels) == set(SIX_TASKS)


@pytest.mark.parametrize(
    "options",
    [
        {"encodes_jointly": False},
        {"interaction": "concatenation"},
        {"level_weights": "softmax"},
        {"lead": 0, "raise_every_step": True, "samples": 2},
        {"variant": "none"},
        {"reads_diffusion": True},
    ],
)
@pytest.mark.parametrize("size", [(64, 64), (50, 70)])
def test_every_variant_learns_and_predicts_images_of_any_size(options, size) -> None:
    method = make_small(SIX_TASKS, **options).train()
    pyramid = pyramid_of(size=size)
    labels = {task: label[..., : size[0], :50] for task, label in all_labels(2).items()}
    pyramid = replace(pyramid, images=pyramid.images[..., :50])
    loss, _ = method(pyramid, labels, None, torch.Generator().manual_seed(0))
    loss.backward()
    assert loss.isfinite()
    found = method.predict(pyramid, (41, 57))
    assert all(tuple(label.shape[-2:]) == (41, 57) for label in found.labels.values())


def test_a_method_of_one_task_reads_the_code_of_its_labels() -> None:
    for task, channels in (("depth", 16), ("saliency", 4)):
        method = make_small((task,), scale=1.0).train()
        assert method.decoder.code_channels == channels
        loss_of(method, partly_ignored()).backward()
        assert all(each.grad.any() for each in method.label_encoder.codes.parameters())


def test_the_loss_has_the_published_weights_unless_others_are_given() -> None:
    method = make_small(SIX_TASKS, task_weights={"depth": 3.0}, auxiliary_weight=0).eval()
    total, terms = method.loss(method.forward_train(pyramid_of()), all_labels(2))
    weights = MULTI_TASK_WEIGHTS | {"depth": 3.0}
    assert total.item() == pytest.approx(
        sum(weights[task] * terms[task] for task in SIX_TASKS), rel=1e-5
    )


@pytest.mark.parametrize(
    ("tasks", "options", "width"),
    [(PASCAL_TASKS, {}, 40), (NYUD_TASKS, {}, 80), (NYUD_TASKS, {"width": 24}, 24)],
)
def test_human_parts_select_the_width_of_pascal_context(tasks, options, width: int) -> None:
    method = make_small(tasks, **({"width": None} | options))
    assert method.decoder.shrink[0].out_channels == width


def test_a_pretrained_encoders_features_start_unchanged(tmp_path) -> None:
    ViTModel(vit_config(0.1, 8), add_pooling_layer=False).save_pretrained(tmp_path)
    alone = make_small(encoder=str(tmp_path), reads_diffusion=False).eval()
    together = make_small(encoder=str(tmp_path), reads_diffusion=True).eval()
    state = alone.state_dict()
    together.load_state_dict(state, strict=False)
    assert torch.equal(outputs_of(alone, pyramid_of()), outputs_of(together, pyramid_of()))
    saved = ViTModel.from_pretrained(tmp_path, add_pooling_layer=False)
    loaded = alone.encoder.blocks[1].state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in saved.layers[1].state_dict().items())
