"""Windows of training images: they hold a text, and the boxes still lie where the text is."""

import numpy as np
import pytest
import torch

from earlyfusion.data.crops import LOOSE, cut, window_size


def numbered(height: int, width: int) -> torch.Tensor:
    """An image (1, 3, H, W) whose first two channels are the place of each pixel: row, column."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([y, x, 0 * x])[None].float()


def test_window_sizes() -> None:
    assert window_size((64, 96), None) == (64, 96)
    assert window_size((64, 96), (32, 128)) == (32, 96)


@pytest.mark.parametrize("size", [(64, 96), (32, 96), (64, 40)])
def test_a_window_holds_a_text_and_its_box(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    places = set()
    for _ in range(60):
        left, top = rng.integers(0, size[1] - 12), rng.integers(0, size[0] - 8)
        boxes = np.array([[left, top, left + 12, top + 8]], float)
        (window,), (found,) = cut(numbered(*size), [boxes], (32, 48), rng)
        height, width = window_size(size, (32, 48))
        assert window.shape == (3, height, width)
        y, x = int(window[0, 0, 0]), int(window[1, 0, 0])
        assert torch.equal(window, numbered(*size)[0, :, y : y + height, x : x + width])
        places.add((y, x))
        assert found.shape == (1, 4)
        whole = boxes[0] - [x, y, x, y]
        assert (found[0] == whole.clip(0, [width, height, width, height])).all()
        assert np.abs(found[0] - whole).max() <= LOOSE
    assert len(places) > 20 or size == (32, 48)


def test_a_text_that_is_wider_than_the_window_fills_it() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        _, (found,) = cut(numbered(32, 96), [np.array([[8, 4, 90, 20]], float)], (32, 48), rng)
        assert (found[0, 2] - found[0, 0]) == 48


def test_other_boxes_are_cut_or_left_out_and_images_without_any_are_cut_too() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([[0, 0, 10, 8], [80, 50, 96, 64]], float)
    for _ in range(20):
        windows, (found, none) = cut(numbered(64, 96).repeat(2, 1, 1, 1), [boxes, boxes[:0]], (32, 48), rng)
        assert windows.shape == (2, 3, 32, 48) and len(found) == 1 and none.shape == (0, 4)
