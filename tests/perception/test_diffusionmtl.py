"""DiffusionMTL: initial predictions, their chain, and the loss where labels are partial."""

from __future__ import annotations

import pytest
import torch

from perception.diffusion.features import FeaturePyramid
from perception.losses.multi_task import MULTI_TASK_WEIGHTS, multi_task_loss
from perception.methods.diffusionmtl import DiffusionMtl
from perception.resnet import make_resnet
from perception.vit import prepare_images
from schemas.config_method import DiffusionMtlSection
from schemas.sample import INVALID_VALUES, TASK_KINDS
from tests.kit.models.multi_task import (
    CHANNELS,
    SIX_TASKS,
    all_labels,
    image_pyramid,
    make_small_method_on_vit,
    num_parameters,
)

VARIANTS = ("feature", "prediction", "baseline")
FEW = ("depth", "semseg", "normals")

every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_denoiser = pytest.mark.parametrize("variant", VARIANTS[:2])


def make_small(tasks=FEW, *, reads_diffusion: bool = False, encoder=None, seed: int = 0, **options):
    section = DiffusionMtlSection(**{"token_reduction": 1, **options})
    method: DiffusionMtl = make_small_method_on_vit(
        "diffusionmtl",
        tasks,
        seed=seed,
        reads_diffusion=reads_diffusion,
        encoder=encoder,
        diffusionmtl=section,
    )
    return method


def with_seeds(pyramid: FeaturePyramid, seeds) -> FeaturePyramid:
    return FeaturePyramid(pyramid.maps, pyramid.images, torch.tensor(seeds))


def labels_of(batch: int, lacking=None):
    """Labels of all tasks, invalid in the images of ``lacking``."""
    found = all_labels(batch)
    for task, images in (lacking or {}).items():
        found[task][images] = INVALID_VALUES[TASK_KINDS[task]]
    return found


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@every_variant
@pytest.mark.parametrize("size", [(64, 64), (50, 70)])
def test_predictions_have_the_size_asked_for_whatever_the_images_size(variant, size) -> None:
    method = make_small(SIX_TASKS, variant=variant)
    found = method.predict(image_pyramid(2, size=size), (41, 57))
    for task, channels in CHANNELS.items():
        shape = (2, 41, 57) if TASK_KINDS[task] == "classes" else (2, channels, 41, 57)
        assert tuple(found.labels[task].shape) == shape
    outputs = method.eval().forward_train(image_pyramid(2, size=size), generator=generator())
    for each in (outputs.final, outputs.initial):
        assert all(tuple(each[task].shape) == (2, CHANNELS[task], *size) for task in SIX_TASKS)


def test_task_maps_have_an_eighth_of_the_side_and_48_channels_at_ratio_a_tenth() -> None:
    method = make_small().eval()
    assert tuple(method.embedded(image_pyramid(2)).shape) == (2, 48, 8, 8)
    assert {
        task: tuple(each.shape) for task, each in method.initial_outputs(image_pyramid(2)).items()
    } == {task: (2, CHANNELS[task], 8, 8) for task in FEW}


@every_denoiser
def test_a_prediction_depends_on_its_own_seed_alone(variant) -> None:
    method, pyramid = make_small(variant=variant).eval(), image_pyramid(3)
    assert method.predicts_from_noise
    with torch.no_grad():
        found = method.raw_outputs(with_seeds(pyramid, [5, 6, 7]))
        again = method.raw_outputs(with_seeds(pyramid, [5, 6, 7]))
        other = method.raw_outputs(with_seeds(pyramid, [5, 8, 7]))
        alone = method.raw_outputs(FeaturePyramid((), pyramid.images[1:2], torch.tensor([6])))
    for task in FEW:
        assert torch.equal(found[task], again[task])
        same = [torch.equal(*pair) for pair in zip(found[task], other[task], strict=True)]
        assert same == [True, False, True]
        torch.testing.assert_close(alone[task], found[task][1:2])


@every_denoiser
def test_the_initial_predictions_can_be_given_instead_of_the_final_ones(variant) -> None:
    method, initial = (make_small(variant=variant, predicts=what) for what in ("final", "initial"))
    initial.load_state_dict(method.state_dict())
    pyramid = with_seeds(image_pyramid(2), [1, 2])
    with torch.no_grad():
        wanted, found = method.eval().initial_outputs(pyramid), initial.eval().raw_outputs(pyramid)
        final = method.raw_outputs(pyramid)
    assert all(torch.equal(found[task], wanted[task]) for task in FEW)
    assert not any(torch.equal(final[task], wanted[task]) for task in FEW)


def test_without_seeds_every_image_has_seed_0() -> None:
    method, pyramid = make_small().eval(), image_pyramid(2)
    with torch.no_grad():
        found, zeros = method.raw_outputs(pyramid), method.raw_outputs(with_seeds(pyramid, [0, 0]))
    assert all(torch.equal(found[task], zeros[task]) for task in FEW)


@every_denoiser
def test_a_tasks_noise_is_the_same_whatever_other_tasks_there_are(variant) -> None:
    method = make_small(("depth", "normals"), variant=variant, condition="none").eval()
    other = make_small(("normals", "depth"), variant=variant, condition="none", seed=1).eval()
    other.load_state_dict(method.state_dict())
    pyramid = with_seeds(image_pyramid(2), [3, 4])
    with torch.no_grad():
        found, wanted = other.raw_outputs(pyramid), method.raw_outputs(pyramid)
    for task in ("depth", "normals"):
        torch.testing.assert_close(found[task], wanted[task])


@pytest.mark.parametrize("options", [{"adds_noise": False}, {"variant": "baseline"}])
def test_without_noise_the_seed_plays_no_part(options) -> None:
    method, pyramid = make_small(**options).eval(), image_pyramid(2)
    assert not method.predicts_from_noise
    with torch.no_grad():
        one, two = (method.raw_outputs(with_seeds(pyramid, seeds)) for seeds in ([1, 2], [3, 4]))
    assert all(torch.equal(one[task], two[task]) for task in FEW)
    losses = [
        method(pyramid, all_labels(2), None, torch.Generator().manual_seed(seed))[0]
        for seed in (1, 2)
    ]
    assert torch.equal(*losses)


def test_training_noise_comes_from_the_generator() -> None:
    method = make_small().eval()
    losses = [
        method(image_pyramid(2), all_labels(2), None, torch.Generator().manual_seed(seed))[0]
        for seed in (1, 1, 2)
    ]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])


@every_denoiser
def test_only_maps_with_labels_are_denoised_in_training(variant) -> None:
    method = make_small(variant=variant).eval()
    labels = labels_of(3, {"depth": [0, 2], "semseg": [0, 1, 2]})
    outputs = method.forward_train(image_pyramid(3), labels=labels, generator=generator())
    assert {task: rows.tolist() for task, rows in outputs.rows.items()} == {
        "depth": [1],
        "normals": [0, 1, 2],
    }
    assert {task: len(each) for task, each in outputs.final.items()} == {"depth": 1, "normals": 3}
    assert {task: len(each) for task, each in outputs.initial.items()} == dict.fromkeys(FEW, 3)


@every_denoiser
@pytest.mark.parametrize("loss_mean", ["image", "batch"])
def test_a_task_without_labels_in_the_batch_leaves_its_own_parts_alone(variant, loss_mean) -> None:
    method = make_small(variant=variant, loss_mean=loss_mean)
    loss, terms = method(image_pyramid(2), labels_of(2, {"semseg": [0, 1]}), None, generator())
    loss.backward()
    assert terms["semseg"] == 0
    assert min(terms["depth"], terms["normals"]) > 0
    denoiser = method.denoiser
    for part in (denoiser.enter, denoiser.leave, denoiser.outputs):
        assert all(each.grad is None for each in part["semseg"].parameters())
        assert all(each.grad is not None for each in part["depth"].parameters())


@every_denoiser
def test_the_final_loss_reaches_the_encoder_through_the_whole_chain(variant) -> None:
    method = make_small(variant=variant, initial_weight=0.0, steps=3)
    loss, _ = method(image_pyramid(2), all_labels(2), None, generator())
    loss.backward()
    assert method.encoder.resnet.embedder.embedder.convolution.weight.grad.any()
    assert method.decoder.outputs["depth"].weight.grad.any(), "read by the condition"
    still = make_small(variant=variant, initial_weight=0.0, steps=3, detach_condition=True)
    loss, _ = still(image_pyramid(2), all_labels(2), None, generator())
    loss.backward()
    assert still.encoder.resnet.embedder.embedder.convolution.weight.grad.any()
    assert bool(still.decoder.outputs["depth"].weight.grad.any()) == (variant == "prediction")


def test_the_loss_of_pixels_is_that_of_the_other_methods_for_final_and_half_the_initial() -> None:
    method = make_small(loss_mean="batch").eval()
    labels = labels_of(3, {"depth": [0], "normals": [1, 2]})
    outputs = method.forward_train(image_pyramid(3), generator=generator())
    found, terms = method.loss(outputs, labels)
    final, wanted = multi_task_loss(outputs.final, labels)
    initial, _ = multi_task_loss(outputs.initial, labels)
    torch.testing.assert_close(found, final + 0.5 * initial)
    assert terms == pytest.approx(wanted)


def test_rows_of_labels_alone_give_the_loss_of_all_rows() -> None:
    labels = labels_of(3, {"depth": [0], "normals": [1, 2], "semseg": [1, 2]})
    for loss_mean in ("image", "batch"):
        method = make_small(loss_mean=loss_mean, adds_noise=False).eval()
        few = method.loss(method.forward_train(image_pyramid(3), labels=labels), labels)
        every = method.loss(method.forward_train(image_pyramid(3)), labels)
        torch.testing.assert_close(few[0], every[0])
        assert few[1] == pytest.approx(every[1])


def test_an_images_loss_is_scaled_by_tasks_over_labelled_tasks() -> None:
    method, pyramid = make_small(adds_noise=False).eval(), image_pyramid(1)
    outputs = method.forward_train(pyramid)
    _, terms = method.loss(outputs, labels_of(1))
    _, initial = multi_task_loss(outputs.initial, labels_of(1))
    of_task = {task: MULTI_TASK_WEIGHTS[task] * (terms[task] + 0.5 * initial[task]) for task in FEW}
    for labelled in (FEW, FEW[:2], FEW[:1]):
        labels = labels_of(1, {task: [0] for task in FEW if task not in labelled})
        loss, _ = method.loss(outputs, labels)
        wanted = len(FEW) / len(labelled) * sum(of_task[task] for task in labelled)
        assert loss.item() == pytest.approx(wanted, rel=1e-5)
    assert method.loss(outputs, labels_of(1, {task: [0] for task in FEW}))[0].item() == 0


def test_task_weights_replace_the_published_ones() -> None:
    method = make_small(adds_noise=False).eval()
    outputs, labels = method.forward_train(image_pyramid(2)), all_labels(2)
    before, terms = method.loss(outputs, labels)
    method.task_weights = {"depth": 3.0}
    after, _ = method.loss(outputs, labels)
    _, initial = multi_task_loss(outputs.initial, labels)
    assert (after - before).item() == pytest.approx(
        2 * (terms["depth"] + 0.5 * initial["depth"]), rel=1e-4
    )


def test_the_baseline_is_six_blocks_whose_outputs_count_once() -> None:
    method = make_small(variant="baseline").eval()
    assert method.denoiser is None
    assert {task: len(each) for task, each in method.decoder.features.items()} == dict.fromkeys(
        FEW, 6
    )
    pyramid, labels = image_pyramid(2), all_labels(2)
    outputs = method.forward_train(pyramid)
    loss, terms = method.loss(outputs, labels)
    assert all(torch.equal(outputs.final[task], outputs.initial[task]) for task in FEW)
    assert loss.item() == pytest.approx(
        sum(MULTI_TASK_WEIGHTS[task] * terms[task] for task in FEW), rel=1e-5
    )
    with torch.no_grad():
        final, initial = method.raw_outputs(pyramid), method.initial_outputs(pyramid)
    assert all(torch.equal(final[task], initial[task]) for task in FEW)


def test_denoising_methods_start_from_two_blocks_and_report_both_predictions() -> None:
    method, pyramid = make_small().eval(), image_pyramid(2)
    assert {task: len(each) for task, each in method.decoder.features.items()} == dict.fromkeys(
        FEW, 2
    )
    with torch.no_grad():
        final, initial = method.raw_outputs(pyramid), method.initial_outputs(pyramid)
    assert not any(torch.equal(final[task], initial[task]) for task in FEW)


def test_depth_is_finished_after_the_chain() -> None:
    method, pyramid = make_small(("depth",), variant="prediction").eval(), image_pyramid(2)
    with torch.no_grad():
        method.denoiser.outputs["depth"].weight.zero_()
        method.denoiser.outputs["depth"].bias.fill_(-5.0)
        raw = method.raw_outputs(pyramid)["depth"]
    torch.testing.assert_close(raw, torch.full_like(raw, -5.0))
    found = method.predict(pyramid, (64, 64)).labels["depth"]
    wanted = torch.nn.functional.softplus(torch.tensor(-3.0)) + 1e-3
    torch.testing.assert_close(found, wanted.expand_as(found))


def test_without_diffusion_features_no_maps_are_read() -> None:
    method = make_small().eval()
    assert method.merge is None
    pyramid = image_pyramid(2)
    with torch.no_grad():
        found = method.embedded(pyramid)
        alone = method.embed(method.encoder(prepare_images(pyramid.images, 8)))
    assert torch.equal(found, alone)
    assert torch.equal(found, method.embedded(FeaturePyramid((), pyramid.images)))


def test_a_pretrained_encoders_features_start_unchanged(tmp_path) -> None:
    make_resnet(None, width_ratio=0.1).save_pretrained(tmp_path)
    method = make_small(reads_diffusion=True, encoder=str(tmp_path)).eval()
    pyramid = image_pyramid(2)
    alone = method.embed(method.encoder(prepare_images(pyramid.images, 8)))
    assert torch.equal(alone, method.embedded(pyramid))
    random = make_small(reads_diffusion=True).eval()
    alone = random.embed(random.encoder(prepare_images(pyramid.images, 8)))
    assert not torch.equal(alone, random.embedded(pyramid))


def test_what_the_condition_costs_is_not_there_without_it() -> None:
    for variant in VARIANTS[:2]:
        whole = make_small(variant=variant).denoiser
        without = make_small(variant=variant, condition="none").denoiser
        mlp = num_parameters(whole.blocks[0].known_mlp)
        assert num_parameters(whole) - num_parameters(without) == (
            num_parameters(whole.condition) + 4 * mlp
        )


def test_maps_without_images_are_refused() -> None:
    with pytest.raises(ValueError, match="wanted the images"):
        make_small().forward_train(FeaturePyramid(image_pyramid(1).maps))
