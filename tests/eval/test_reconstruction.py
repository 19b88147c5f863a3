import json
import math
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from rich.console import Console
from torch import nn

from earlyfusion.eval.items import Item
from earlyfusion.eval.reconstruction import (
    evaluate_reconstruction,
    reconstruct_pictures,
    ssim,
    table,
    text_box,
)
from earlyfusion.tokenizers.pixels import to_pil, to_tensor


class FakeTokenizer(nn.Module):
    """Gives back what `change` makes of the images; every position has the code of its column."""

    factor, codebook_size = 8, 16

    def __init__(self, change):
        super().__init__()
        self.change = change
        self.device = nn.Parameter(torch.zeros(1))

    def encode(self, images):
        self.images = images
        B, _, H, W = images.shape
        return torch.arange(W // 8).expand(B, H // 8, W // 8)

    def decode(self, codes):
        assert codes.shape[1:] == (self.images.shape[2] // 8, self.images.shape[3] // 8)
        return self.change(self.images)


def fake_tokenizer(change=lambda images: images) -> Any:  # an ImageTokenizer as far as it is used
    return FakeTokenizer(change)


class FakeReader:
    """Knows the originals by their pixels and misreads one of them; anything else has no text for it."""

    name, version = "fake", "1"

    def __init__(self, items, wrong=()):
        self.texts = {i.image.tobytes(): "?" if i.text in wrong else i.text for i in items}

    def read(self, images, on_read=None):
        return [self.texts.get(image.tobytes(), "") for image in images]


def word_item(text: str, size: float | None = 12.0, kind: str = "word") -> Item:
    """As many bars as characters, 6 px wide each with the space between, 10 px high."""
    image = Image.new("RGB", (64, 16), "white")
    for i in range(len(text)):
        ImageDraw.Draw(image).rectangle((2 + 6 * i, 3, 7 + 6 * i, 12), fill=(0, ord(text[i]), 0))
    return Item(image, text, size, kind)


ITEMS = [word_item("one"), word_item("three"), word_item("xq", 14.0, "random"), word_item("word", 14.0)]


def test_identity_is_lossless_and_scores_what_the_original_scores():
    result = evaluate_reconstruction(fake_tokenizer(), ITEMS, [FakeReader(ITEMS, wrong=("word",))])
    assert (result["l1"], result["mse"], result["ssim"]) == (0, 0, pytest.approx(1))
    assert result["psnr"] is None  # infinite
    assert result["ocr"]["reconstruction"] == result["ocr"]["original"]
    assert result["ocr"]["original"] == {
        "t_acc": 1,
        "t_ned": 1,
        "exact_match": 0.75,
        "cer": pytest.approx(4 / 14),
    }
    json.dumps(result, allow_nan=False)


def test_a_blank_reconstruction_scores_zero():
    result = evaluate_reconstruction(fake_tokenizer(torch.ones_like), ITEMS, [FakeReader(ITEMS)])
    assert result["ocr"]["reconstruction"] == {"t_acc": 0, "t_ned": 0, "exact_match": 0, "cer": 1}
    assert result["ocr"]["original"]["exact_match"] == 1
    assert result["psnr"] < 20 and result["ssim"] < 0.9


def test_scores_by_text_size_and_kind():
    scores = evaluate_reconstruction(fake_tokenizer(), ITEMS, [FakeReader(ITEMS, wrong=("word",))])
    by_reader = scores["ocr_by_reader"]["fake"]
    assert by_reader["version"] == "1"
    rows = by_reader["by_text_size"]["bins"]
    assert [(row["bin"], row["items"], row["counted"]) for row in rows] == [
        ("[12, 13)", 2, 2),
        ("[14, 15)", 2, 1),
    ]
    assert rows[1]["original"]["exact_match"] == 0.5
    assert list(by_reader["by_kind"]) == ["random", "word"]
    assert by_reader["empty_bins"] == ["[0.02, 0.03)", "[0.03, 0.04)"]  # 6 px of 64 a character
    assert scores["ocr"] == {side: by_reader[side] for side in ("original", "reconstruction")}


def test_pixel_metrics_equal_plain_torch():
    noise = torch.Generator().manual_seed(0)
    items = [Item(to_pil(torch.rand(3, 16, w, generator=noise) * 2 - 1)) for w in (16, 32, 32, 48)]
    result = evaluate_reconstruction(fake_tokenizer(lambda x: x * 1.5 + 0.1), items, batch_size=1)
    originals = torch.cat([to_tensor(item.image).flatten() for item in items])
    got = ((originals * 1.5 + 0.1).clamp(-1, 1) + 1) / 2  # what leaves the range is cut off
    difference = got - (originals + 1) / 2
    assert result["l1"] == pytest.approx(difference.abs().mean().item(), rel=1e-4)
    assert result["mse"] == pytest.approx(difference.square().mean().item(), rel=1e-4)
    assert result["psnr"] == pytest.approx(-10 * math.log10(difference.square().mean().item()), rel=1e-4)
    assert "ocr" not in result


def test_codes_are_counted_over_the_whole_set():
    items = [Item(Image.new("RGB", size)) for size in ((8, 8), (32, 8), (16, 8))]
    result = evaluate_reconstruction(fake_tokenizer(), items)
    # Codes 0; 0 1 2 3; 0 1: four of 16, three times, twice, once, once.
    assert result["codebook_usage"] == 4 / 16
    share = torch.tensor([3, 2, 1, 1]) / 7
    assert result["perplexity"] == pytest.approx(math.exp(-(share * share.log()).sum()))
    assert result["tokens_per_image"] == pytest.approx(7 / 3)
    assert result["bits_per_pixel"] == pytest.approx(4 / 64)
    assert result["psnr"] is None


def test_batching_by_size_changes_nothing(image_tokenizer, photo):
    pictures = [photo.resize(size) for size in ((16, 16), (32, 16), (16, 16), (16, 32), (32, 16))]
    batches = []
    together = reconstruct_pictures(
        image_tokenizer, pictures, batch_size=2, batch=lambda some, *_: batches.append(some)
    )
    assert sorted(batches) == [[0, 2], [1, 4], [3]]
    for picture, got in zip(pictures, together):
        (alone,) = reconstruct_pictures(image_tokenizer, [picture])
        assert got.size == picture.size
        assert (to_tensor(got) - to_tensor(alone)).abs().max() < 0.02  # one step of 255


def test_a_real_tokenizer_takes_images_of_any_size(image_tokenizer, photo):
    items = [Item(photo.resize(size)) for size in ((16, 16), (30, 21), (3, 3), (200, 9))]
    done = []
    result = evaluate_reconstruction(image_tokenizer, items, progress=lambda *step: done.append(step))
    assert done[-1] == ("image tokenizer", 4, 4)
    assert result["bits_per_pixel"] == pytest.approx(math.log2(32) / 64)
    assert 0 < result["codebook_usage"] <= 1 <= result["perplexity"] <= 32
    assert -1 < result["ssim"] < 1 and 0 < result["psnr"] < 40
    json.dumps(result, allow_nan=False)


def plain_ssim(a, b, window: int, sigma: float) -> float:
    """SSIM (Wang et al., 2004) at every place where the window fits, with population variances."""
    x = torch.arange(window) - window // 2
    g = torch.exp(-(x**2) / (2 * sigma**2)).double()
    weights = torch.outer(g, g) / torch.outer(g, g).sum()
    values = []
    for channel in range(3):
        for top in range(a.shape[1] - window + 1):
            for left in range(a.shape[2] - window + 1):
                p, q = (z[channel, top : top + window, left : left + window].double() for z in (a, b))
                mp, mq = (weights * p).sum(), (weights * q).sum()
                vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
                cov = (weights * (p - mp) * (q - mq)).sum()
                c1, c2 = 0.01**2, 0.03**2
                values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return torch.stack(values).mean().item()


@pytest.mark.parametrize(
    ("height", "width", "window", "sigma"),
    [(16, 20, 11, 1.5), (11, 11, 11, 1.5), (8, 24, 7, 6 / 7), (10, 9, 9, 8 / 7), (4, 16, 3, 2 / 7)],
)
def test_ssim_of_small_images_uses_the_window_that_fits(height, width, window, sigma):
    a, b = torch.rand(2, 1, 3, height, width, generator=torch.Generator().manual_seed(height))
    b = (a + b) / 2
    assert ssim(a, a).item() == pytest.approx(1)
    torch_value = ssim(a, b).item()
    # Where the window reaches over the edge torchmetrics mirrors the image, so compare with the mirrored one.
    pad = window // 2
    a, b = (nn.functional.pad(z, (pad,) * 4, mode="reflect")[0] for z in (a, b))
    assert torch_value == pytest.approx(plain_ssim(a, b, window, sigma), abs=2e-3)


def test_ssim_has_no_value_below_three_pixels():
    assert ssim(*torch.rand(2, 1, 3, 2, 16)).isnan().all()


def test_text_box_measures_the_ink(photo):
    box = text_box(word_item("three", None), word_item("three").image, "", "")
    assert box.relative_size == pytest.approx(30 / 5 / 64)
    assert box.pixels == 10
    twice = word_item("three").image.resize((128, 32))
    assert text_box(word_item("three", 12), twice, "", "").pixels == 24


def test_no_images_is_an_error(image_tokenizer):
    with pytest.raises(ValueError, match="no images"):
        evaluate_reconstruction(image_tokenizer, [])


def test_the_table_prints_every_figure():
    items = [*ITEMS, Item(ITEMS[0].image, "odd", 12.0, "[red]odd")]
    result = evaluate_reconstruction(fake_tokenizer(torch.ones_like), items, [FakeReader(items)])
    console = Console(width=200)
    with console.capture() as printed:
        console.print(table(result))
    text = printed.get()
    for expected in ("PSNR", "50.0% of 16", "fake 1"):
        assert expected in text
    for expected in (
        "type [12, 13) px",
        "size [0.04, 1)",
        "[red]odd",
        "empty: [0.02, 0.03)",
    ):
        assert expected in text
