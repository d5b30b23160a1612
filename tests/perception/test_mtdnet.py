"""DiffusionMTL's denoiser and its chain, on random features and predictions."""

from __future__ import annotations

import functools

import pytest
import torch

from perception.geometry import resized
from perception.heads.mtdnet import MTDNet, chain_schedule, posteriors, step_sines
from schemas.config_method import DiffusionMtlSection
from schemas.errors import ConfigError
from tests.kit.models.multi_task import num_parameters

CHANNELS = {"semseg": 5, "depth": 1, "normals": 3}
WIDTH = 16
VARIANTS = ("feature", "prediction")

every_variant = pytest.mark.parametrize("variant", VARIANTS)


def make(channels=CHANNELS, *, seed: int = 0, **options) -> MTDNet:
    torch.manual_seed(seed)
    return MTDNet(channels, WIDTH, DiffusionMtlSection(**options))


def make_maps(batch: int = 2, *, size=(8, 8), channels=CHANNELS, seed: int = 0):
    """F_init and P_init of every task."""
    generator = torch.Generator().manual_seed(seed)
    draw = functools.partial(torch.randn, generator=generator)
    features = {task: draw(batch, WIDTH, *size).relu() for task in channels}
    predictions = {task: draw(batch, count, *size) for task, count in channels.items()}
    return features, predictions


def all_rows(batch: int = 2, channels=CHANNELS):
    return {task: torch.arange(batch) for task in channels}


def noise_of(seed: int):
    """Noise of an image, a task and a step, whichever rows are asked for."""

    def draw(task, step, rows):
        generator = torch.Generator().manual_seed(1000 * seed + 10 * step + len(task))
        return torch.randn(rows.shape, generator=generator)

    return draw


def no_noise(task, step, rows):
    raise AssertionError("wanted no noise to be drawn")


def zero_noise(task, step, rows):
    return torch.zeros_like(rows)


class Perfect(MTDNet):
    """Its steps predict X_init itself."""

    def denoise(self, present, k, asked):
        self.seen = [*getattr(self, "seen", []), present]
        return self.wanted


def make_perfect(steps: int) -> Perfect:
    net = Perfect({"depth": 1}, WIDTH, DiffusionMtlSection(variant="prediction", steps=steps))
    net.condition = None
    return net


@pytest.mark.parametrize(
    ("steps", "betas", "alpha_bar"),
    [
        (1, [0.001], [0.999]),
        (2, [0.001, 0.01], [0.999, 0.98901]),
        (3, [0.001, 0.004331, 0.01], [0.999, 0.994673, 0.984726]),
        (5, [0.001, 0.002373, 0.004331, 0.006873, 0.01], [0.999, None, None, None, 0.975637]),
    ],
)
def test_the_chain_has_the_published_noise_levels(steps, betas, alpha_bar) -> None:
    schedule = chain_schedule(steps)
    assert schedule.betas.tolist() == pytest.approx(betas, abs=5e-7)
    for found, wanted in zip(schedule.alpha_bar.tolist(), alpha_bar, strict=True):
        assert wanted is None or found == pytest.approx(wanted, abs=5e-7)


def test_two_steps_have_the_published_coefficients() -> None:
    way = posteriors(chain_schedule(2))[1]
    assert way.clean == pytest.approx(0.909463, abs=1e-6)
    assert way.present == pytest.approx(0.090535, abs=1e-6)
    assert way.deviation == pytest.approx(0.030164, abs=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_a_step_down_keeps_the_marginals_and_the_last_one_is_the_clean_end(steps) -> None:
    schedule = chain_schedule(steps)
    before = 1.0
    for way, now in zip(posteriors(schedule), schedule.alpha_bar.tolist(), strict=True):
        assert way.clean + way.present * now**0.5 == pytest.approx(before**0.5)
        assert way.deviation**2 + way.present**2 * (1 - now) == pytest.approx(1 - before)
        before = now
    last = posteriors(schedule)[0]
    assert (last.clean, last.present, last.deviation) == pytest.approx((1.0, 0.0, 0.0))


@torch.no_grad()
def test_with_perfect_steps_the_first_level_has_its_mean_and_variance() -> None:
    net, start = make_perfect(2), torch.full((1, 1, 256, 256), 3.0)
    net.wanted = {"depth": start}
    maps = {"depth": start}
    found = net({}, maps, {"depth": torch.tensor([0])}, noise_of(0))
    assert torch.equal(found["depth"], start)
    noised, first = (each["depth"] for each in net.seen)
    for level, share in ((noised, 0.98901), (first, 0.999)):
        # 65,536 pixels: the mean is known to a 256th of the deviation, the variance to 0.6 %.
        assert float(level.mean()) == pytest.approx(3 * share**0.5, abs=0.02 * (1 - share) ** 0.5)
        assert float(level.var()) == pytest.approx(1 - share, rel=0.03)


@every_variant
@torch.no_grad()
def test_blocks_that_add_nothing_leave_condition_and_entered_map_to_the_head(variant) -> None:
    net = make(variant=variant, steps=1, adds_noise=False)
    for block in net.blocks:
        for layer in (block.project, block.mlp[-1], block.known_mlp[-1]):
            layer.weight.zero_()
            layer.bias.zero_()
    features, predictions = make_maps()
    found = net(features, predictions, all_rows(), no_noise)
    condition = resized(resized(net.condition(predictions), (2, 2)), (8, 8))
    start = features if variant == "feature" else predictions
    step = net.step(step_sines(0)).view(-1, 1, 1)
    for task in CHANNELS:
        head = torch.nn.Sequential(net.leave[task], net.outputs[task])
        wanted = head(condition + net.enter[task](start[task]) + step)
        torch.testing.assert_close(found[task], wanted)


@every_variant
@torch.no_grad()
def test_a_step_is_attention_of_the_conditions_tokens_on_the_maps(variant) -> None:
    net = make(variant=variant, steps=1, adds_noise=False, num_blocks=1, num_heads=2)
    features, predictions = make_maps(1)
    start = features if variant == "feature" else predictions
    found = net(features, predictions, {"depth": torch.tensor([0])}, no_noise)["depth"]
    block = net.blocks[0]
    entered = net.enter["depth"](start["depth"]) + net.step(step_sines(0)).view(-1, 1, 1)
    asked = resized(net.condition(predictions), (2, 2)).flatten(2)[0].T
    known = resized(entered, (2, 2)).flatten(2)[0].T
    known = block.known_norm(known + block.known_mlp(known))
    query, key, value = (
        block.query(block.asked_norm(asked)),
        block.key(known),
        block.value(known),
    )
    read = []
    for half in (slice(0, WIDTH // 2), slice(WIDTH // 2, WIDTH)):
        scores = query[:, half] @ key[:, half].T / (WIDTH / 2) ** 0.5
        read.append(scores.softmax(dim=1) @ value[:, half])
    asked = asked + block.project(torch.cat(read, dim=1))
    asked = asked + block.mlp(asked)
    raised = resized(asked.T.reshape(1, WIDTH, 2, 2), (8, 8))
    wanted = net.outputs["depth"](net.leave["depth"](raised + entered))
    torch.testing.assert_close(found, wanted)


@every_variant
def test_predictions_of_other_tasks_are_heard_unless_they_are_detached(variant) -> None:
    for detaches in (False, True):
        net = make(variant=variant, detach_condition=detaches)
        features, predictions = make_maps()
        leaves = {task: each.requires_grad_() for task, each in predictions.items()}
        final = net(features, leaves, {"depth": torch.tensor([1])}, noise_of(0))
        gradients = torch.autograd.grad(
            final["depth"].square().sum(), list(leaves.values()), allow_unused=True
        )
        heard = {
            task: gradient is not None and bool(gradient.any())
            for task, gradient in zip(leaves, gradients, strict=True)
        }
        # The prediction that is noised itself is read as well, by the chain.
        itself = variant == "prediction"
        assert heard == {task: not detaches or (itself and task == "depth") for task in CHANNELS}
        if not detaches:
            assert all(not gradient[0].any() for gradient in gradients), "image 0 is not asked for"


@every_variant
def test_without_a_condition_a_task_hears_itself_alone(variant) -> None:
    net = make(variant=variant, condition="none")
    assert net.condition is None
    features, predictions = make_maps()
    other = make_maps(seed=1)
    changed = [
        {**each, "semseg": new["semseg"]}
        for each, new in zip((features, predictions), other, strict=True)
    ]
    one = net(features, predictions, all_rows(), zero_noise)
    two = net(*changed, all_rows(), zero_noise)
    assert [torch.equal(one[task], two[task]) for task in CHANNELS] == [False, True, True]


@every_variant
@torch.no_grad()
def test_a_batch_of_all_tasks_is_each_task_and_image_alone(variant) -> None:
    net = make(variant=variant)
    features, predictions = make_maps(3)
    together = net(features, predictions, all_rows(3), zero_noise)
    for task in CHANNELS:
        for i in range(3):
            alone = net(
                *(
                    {name: each[i : i + 1] for name, each in maps.items()}
                    for maps in (features, predictions)
                ),
                {task: torch.tensor([0])},
                zero_noise,
            )
            torch.testing.assert_close(alone[task], together[task][i : i + 1])


@every_variant
@torch.no_grad()
def test_only_the_rows_that_are_asked_for_are_denoised(variant) -> None:
    net = make(variant=variant)
    features, predictions = make_maps(3)
    together = net(features, predictions, all_rows(3), zero_noise)
    rows = {"depth": torch.tensor([2]), "semseg": torch.tensor([0, 2])}
    found = net(features, predictions, rows, zero_noise)
    assert set(found) == {"depth", "semseg"}
    torch.testing.assert_close(found["depth"], together["depth"][[2]])
    torch.testing.assert_close(found["semseg"], together["semseg"][[0, 2]])
    assert net(features, predictions, {}, no_noise) == {}


@every_variant
@torch.no_grad()
def test_equal_noise_gives_equal_outputs_other_noise_others_none_needs_none(variant) -> None:
    net, (features, predictions) = make(variant=variant), make_maps()
    runs = [net(features, predictions, all_rows(), noise_of(seed)) for seed in (1, 1, 2)]
    for task in CHANNELS:
        assert torch.equal(runs[0][task], runs[1][task])
        assert not torch.equal(runs[0][task], runs[2][task])
    still = make(variant=variant, adds_noise=False)
    once, again = (still(features, predictions, all_rows(), no_noise) for _ in range(2))
    assert all(torch.equal(once[task], again[task]) for task in CHANNELS)


@torch.no_grad()
def test_noise_is_drawn_at_the_start_and_before_every_step_but_the_last() -> None:
    drawn = []

    def noise(task, step, rows):
        drawn.append((task, step))
        return torch.zeros_like(rows)

    for steps, wanted in ((1, [1]), (2, [2, 1]), (4, [4, 3, 2, 1])):
        drawn.clear()
        make(steps=steps)(*make_maps(), {"depth": torch.tensor([0])}, noise)
        assert drawn == [("depth", step) for step in wanted]


@torch.no_grad()
def test_one_step_reads_the_map_scaled_once() -> None:
    net, (features, predictions) = make(steps=1), make_maps()
    rows = {"depth": torch.tensor([0, 1])}
    found = net(features, predictions, rows, zero_noise)
    still = make(steps=1, adds_noise=False)
    scaled = {task: 0.999**0.5 * each for task, each in features.items()}
    torch.testing.assert_close(found, still(scaled, predictions, rows, no_noise))


@torch.no_grad()
def test_without_noise_steps_read_what_the_step_before_gave() -> None:
    features, predictions = make_maps()
    net = make(steps=3, adds_noise=False)
    found = net(features, predictions, {"depth": torch.tensor([0, 1])}, no_noise)
    asked = resized(net.condition(predictions), (2, 2)).flatten(2).transpose(1, 2)
    present = {"depth": features["depth"]}
    for k in (2, 1, 0):
        present = net.denoise(present, k, asked)
    torch.testing.assert_close(found["depth"], net.outputs["depth"](present["depth"]))


def test_step_0_is_told_as_128_ones_and_128_zeros() -> None:
    assert torch.equal(step_sines(0), torch.cat([torch.ones(128), torch.zeros(128)]))
    told = step_sines(3)
    assert float(told[0]) == pytest.approx(torch.tensor(3.0).cos().item())
    slowest = 3 * 10_000 ** (-127 / 128)
    assert float(told[-1]) == pytest.approx(slowest, rel=1e-4)


@every_variant
def test_blocks_are_shared_by_tasks_and_steps(variant) -> None:
    def parts(count: int, steps: int = 2) -> dict[str, int]:
        channels = dict(list(CHANNELS.items())[:count])
        net = make(channels, variant=variant, steps=steps)
        return {name: num_parameters(child) for name, child in net.named_children()}

    one, two, three = (parts(count) for count in (1, 2, 3))
    assert one["blocks"] == two["blocks"] == three["blocks"]
    assert one["step"] == three["step"]
    assert three["leave"] == 3 * one["leave"]
    assert parts(2, steps=5) == two


@every_variant
@torch.no_grad()
def test_permuting_tasks_permutes_the_outputs(variant) -> None:
    order = ("normals", "semseg", "depth")
    permuted = {task: CHANNELS[task] for task in order}
    net, other = make(variant=variant), make(permuted, variant=variant, seed=1)
    state = net.state_dict()
    widths = dict.fromkeys(CHANNELS, WIDTH) if variant == "prediction" else CHANNELS
    columns = dict(
        zip(
            CHANNELS,
            state["condition.join.weight"].split(list(widths.values()), dim=1),
            strict=True,
        )
    )
    state["condition.join.weight"] = torch.cat([columns[task] for task in order], dim=1)
    other.load_state_dict(state)
    features, predictions = make_maps()
    wanted = net(features, predictions, all_rows(), noise_of(0))
    found = other(
        *({task: maps[task] for task in order} for maps in (features, predictions)),
        {task: torch.arange(2) for task in order},
        noise_of(0),
    )
    for task in order:
        torch.testing.assert_close(found[task], wanted[task])


@pytest.mark.parametrize(
    ("size", "reduction", "tokens"),
    [((64, 64), 4, 256), ((36, 48), 4, 108), ((16, 32), 4, 32), ((8, 8), 1, 64), ((3, 9), 4, 2)],
)
@torch.no_grad()
def test_tokens_are_as_many_as_the_reduced_map_has_pixels(size, reduction, tokens) -> None:
    net, seen = make(token_reduction=reduction, steps=1), []
    net.blocks[0].register_forward_hook(lambda block, given, found: seen.append(given))
    found = net(*make_maps(1, size=size), all_rows(1), zero_noise)
    assert [tuple(each.shape) for each in seen[0]] == [(3, tokens, WIDTH)] * 2
    assert tuple(found["normals"].shape) == (1, 3, *size)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"num_heads = 3: wanted a divisor of the width 16"):
        make(num_heads=3)
