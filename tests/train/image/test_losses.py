"""The terms of the image tokenizer's loss, against loops in plain Python and by what they must not see."""

import pytest
import torch
from torch import Tensor

from earlyfusion.train.image import losses as image_losses
from earlyfusion.train.image.losses import box_mask, text_distance
from earlyfusion.train.image.recognizer import Recognizer, RecognizerConfig


def images(count: int = 2, height: int = 64, width: int = 128, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    """Untrained, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Recognizer(RecognizerConfig(channels=(8, 12, 8), characters="ab")).eval().requires_grad_(False)


def boxes(*rows: tuple[int, float, float, float, float]) -> Tensor:
    return torch.tensor(rows).view(-1, 5)


def gray(image: Tensor, y: int, x: int) -> float:
    return sum(float(image[c, y, x]) for c in range(3)) / 3


def test_terms_against_plain_lines() -> None:
    found, wanted = images(2, 3, 4, seed=1), images(2, 3, 4, seed=2)
    pairs = [(float(f), float(w)) for f, w in zip(found.flatten(), wanted.flatten(), strict=True)]
    assert float(image_losses.l1(found, wanted)) == pytest.approx(sum(abs(f - w) for f, w in pairs) / 72)
    assert float(image_losses.mse(found, wanted)) == pytest.approx(sum((f - w) ** 2 for f, w in pairs) / 72)

    difference = found - wanted
    color = [
        float(d[c, y, x]) - gray(d, y, x)
        for d in difference
        for c in range(3)
        for y in range(3)
        for x in range(4)
    ]
    expected = sum(abs(value) for value in color) / 72 + sum(value**2 for value in color) / 72
    assert float(image_losses.chroma(found, wanted)) == pytest.approx(expected)

    across = [gray(d, y, x + 1) - gray(d, y, x) for d in difference for y in range(3) for x in range(3)]
    down = [gray(d, y + 1, x) - gray(d, y, x) for d in difference for y in range(2) for x in range(4)]
    expected = sum(map(abs, across)) / len(across) + sum(map(abs, down)) / len(down)
    assert float(image_losses.edge(found, wanted)) == pytest.approx(expected, rel=1e-5)


def test_what_the_terms_leave_out() -> None:
    wanted = images()
    for term in (image_losses.l1, image_losses.mse, image_losses.chroma, image_losses.edge):
        assert term(wanted, wanted) == 0
    brighter = wanted + 0.3
    assert float(image_losses.chroma(brighter, wanted)) == pytest.approx(0, abs=1e-6)
    assert float(image_losses.edge(brighter, wanted)) == pytest.approx(0, abs=1e-6)
    redder = wanted + torch.tensor([0.2, -0.1, -0.1])[:, None, None]
    assert float(image_losses.edge(redder, wanted)) == pytest.approx(0, abs=1e-6)
    assert float(image_losses.chroma(redder, wanted)) > 0.1


def test_box_mask_against_a_loop() -> None:
    given = boxes(
        (0, 1, 2, 5, 4), (0, 4.6, 3, 9, 7.4), (2, -3, -3, 2.5, 1), (2, 10, 6, 99, 99), (2, 4, 4, 4, 9)
    )
    found = box_mask(given, torch.Size((3, 3, 8, 12)))
    assert found.shape == (3, 8, 12)
    for image in range(3):
        for y in range(8):
            for x in range(12):
                inside = any(
                    n == image and left <= x + 0.5 < right and top <= y + 0.5 < bottom
                    for n, left, top, right, bottom in given.tolist()
                )
                assert found[image, y, x] == inside, (image, y, x)
    assert not found[1].any() and found[2, 4:, 4].sum() == 0  # a box without width holds nothing


def test_equal_images_and_images_without_boxes(recognizer: Recognizer) -> None:
    wanted = images()
    box = boxes((0, 8, 8, 40, 24), (1, 0, 0, 128, 64))
    assert float(text_distance(recognizer, wanted, wanted, box)) == pytest.approx(0, abs=1e-10)
    assert text_distance(recognizer, images(seed=1), wanted, box) > 0.01
    none = text_distance(recognizer, images(seed=1).requires_grad_(), wanted, boxes())
    assert none.shape == () and none == 0
    outside = text_distance(recognizer, images(seed=1), wanted, boxes((0, 500, 8, 540, 24)))
    assert outside == 0  # a box beyond the image


def test_pixels_far_from_every_box_do_not_count(recognizer: Recognizer) -> None:
    wanted, found = images(), images(seed=1)
    box = boxes((0, 8, 8, 32, 24))
    before = text_distance(recognizer, found, wanted, box)
    far = found.clone()
    far[0, :, :, 72:] = 0
    far[0, :, 60:] = 0
    far[1] = 0  # an image without a box
    torch.testing.assert_close(text_distance(recognizer, far, wanted, box), before)
    near = found.clone()
    near[0, :, 10:20, 10:20] = 0
    assert abs(float(text_distance(recognizer, near, wanted, box) - before)) > 1e-4


def by_hand(recognizer: Recognizer, found: Tensor, wanted: Tensor, cells: list[tuple]) -> list[float]:
    """For each layer the mean distance over ``cells``: (image, box in pixels, multiples of 8)."""
    layers = []
    pairs = zip(recognizer.features(found), recognizer.features(wanted), strict=True)
    for (first, second), (tall, wide) in zip(pairs, ((4, 4), (8, 4)), strict=True):
        total, count = 0.0, 0
        for image, (left, top, right, bottom) in cells:
            for y in range(top // tall, bottom // tall):
                for x in range(left // wide, right // wide):
                    a, b = first[image, :, y, x], second[image, :, y, x]
                    a, b = a / a.norm().clamp(min=1e-12), b / b.norm().clamp(min=1e-12)
                    total += float((a - b).square().sum())
                    count += 1
        layers.append(total / count)
    return layers


@torch.no_grad()
def test_boxes_are_weighted_by_their_area(recognizer: Recognizer) -> None:
    wanted, found = images(), images(seed=1)
    small, large = (0, 8, 8, 24, 24), (1, 16, 0, 112, 64)
    apart = [float(text_distance(recognizer, found, wanted, boxes(box))) for box in (small, large)]
    for box, value in zip((small, large), apart, strict=True):
        hand = by_hand(recognizer, found, wanted, [(box[0], box[1:])])
        assert value == pytest.approx(sum(hand), rel=1e-5)
    together = float(text_distance(recognizer, found, wanted, boxes(small, large)))
    areas = [(right - left) * (bottom - top) for _, left, top, right, bottom in (small, large)]
    assert areas == [256, 6144]
    expected = sum(area * value for area, value in zip(areas, apart, strict=True)) / sum(areas)
    assert together == pytest.approx(expected, rel=1e-5)
    assert abs(together - apart[1]) < abs(together - apart[0])
    twice = float(text_distance(recognizer, found, wanted, boxes(small, large, large)))
    assert twice == pytest.approx(together, rel=1e-6)  # what two boxes share counts once


@torch.no_grad()
def test_the_order_of_images_and_boxes_does_not_matter(recognizer: Recognizer) -> None:
    wanted, found = images(3), images(3, seed=1)
    given = boxes((2, 0, 0, 40, 20), (0, 24, 8, 64, 30), (2, 64, 32, 128, 64))
    value = text_distance(recognizer, found, wanted, given)
    torch.testing.assert_close(text_distance(recognizer, found, wanted, given.flip(0)), value)
    turned = given.clone()
    turned[:, 0] = 2 - turned[:, 0]
    torch.testing.assert_close(text_distance(recognizer, found.flip(0), wanted.flip(0), turned), value)


def test_the_gradient_goes_to_the_reconstruction_alone(recognizer: Recognizer) -> None:
    wanted, found = images().requires_grad_(), images(seed=1).requires_grad_()
    before = {name: tensor.clone() for name, tensor in recognizer.state_dict().items()}
    text_distance(recognizer, found, wanted, boxes((0, 8, 8, 40, 24))).backward()
    assert found.grad is not None and found.grad[0, :, 8:24, 8:40].abs().sum() > 0
    assert not found.grad[1].any() and not found.grad[0, :, :, 90:].any()
    assert wanted.grad is None
    assert all(parameter.grad is None for parameter in recognizer.parameters())
    after = recognizer.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_step_along_the_gradient_makes_the_text_more_alike(recognizer: Recognizer) -> None:
    wanted, found = images(1), images(1, seed=1).requires_grad_()
    box = boxes((0, 0, 0, 128, 64))
    values = []
    optimizer = torch.optim.Adam([found], 0.05)
    for _ in range(15):
        loss = text_distance(recognizer, found, wanted, box)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.5 * values[0]


def test_sides_that_the_stages_do_not_divide(recognizer: Recognizer) -> None:
    """Factor 4 gives images of 12 x 20 px: half a cell of the second stage is left."""
    wanted, found = images(1, 12, 20), images(1, 12, 20, seed=1)
    assert float(text_distance(recognizer, found, wanted, boxes((0, 0, 0, 20, 12)))) > 0
