import json
import math
from functools import partial
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from rich.console import Console
from torch import nn
from torchmetrics.functional import mean_absolute_error, mean_squared_error
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from torchmetrics.image.fid import FrechetInceptionDistance

from earlyfusion.eval.items import Item, TextRegion
from earlyfusion.eval.metrics import pixels
from earlyfusion.eval.metrics.ocr import Box
from earlyfusion.eval.metrics.passages import passages
from earlyfusion.eval.metrics.perceptual import Perceptual
from earlyfusion.eval.metrics.pixels import PixelScores, ssim
from earlyfusion.eval.metrics.text import edit_distance
from earlyfusion.eval.report.reconstruction_table import table
from earlyfusion.eval.tasks import reconstruction
from earlyfusion.eval.tasks.reconstruction import (
    flat_figures,
    measure,
    reconstruct_pictures,
)
from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from earlyfusion.tokenizers.pixels import to_pil, to_tensor
from earlyfusion.tokenizers.vqvae.tiles import encode_tiled


class FakeTokenizer(nn.Module):
    """Reconstructs images as ``change`` of them; a position's code is its column, plus g in slot g of n."""

    factor, codebook_size = 8, 16

    def __init__(self, change, codes_per_position=1):
        super().__init__()
        self.change, self.codes_per_position = change, codes_per_position
        self.device = nn.Parameter(torch.zeros(1))

    def encode(self, images):
        self.images = images
        B, _, H, W = images.shape
        codes = torch.arange(W // 8).remainder(16).expand(B, H // 8, W // 8)
        n = self.codes_per_position
        return codes if n == 1 else torch.stack([codes + slot for slot in range(n)], -1)

    def decode(self, codes):
        assert codes.shape[1:3] == (self.images.shape[2] // 8, self.images.shape[3] // 8)
        return self.change(self.images)


def fake_tokenizer(change=lambda images: images, n=1) -> Any:  # an ImageTokenizer as far as it is used
    return FakeTokenizer(change, n)


class FakeReader:
    """Recognizes the originals by their pixels and misreads one of them; reads nothing in other images."""

    name, version = "fake", "1"

    def __init__(self, items, wrong=()):
        self.texts = {i.image.tobytes(): "?" if i.text in wrong else i.text for i in items}

    def read(self, images, on_read=None):
        return [self.texts.get(image.tobytes(), "") for image in images]


def word_item(text: str, size: float | None = 12.0, kind: str = "word") -> Item:
    """One bar per character, 6 px wide with the space after it, 10 px high."""
    image = Image.new("RGB", (64, 16), "white")
    for i in range(len(text)):
        ImageDraw.Draw(image).rectangle((2 + 6 * i, 3, 7 + 6 * i, 12), fill=(0, ord(text[i]), 0))
    return Item(image, text, size, kind)


ITEMS = [word_item("one"), word_item("three"), word_item("xq", 14.0, "random"), word_item("word", 14.0)]


def test_identity_is_lossless_and_scores_what_the_original_scores():
    result = measure(fake_tokenizer(), ITEMS, [FakeReader(ITEMS, wrong=("word",))]).figures
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
    result = measure(fake_tokenizer(torch.ones_like), ITEMS, [FakeReader(ITEMS)]).figures
    assert result["ocr"]["reconstruction"] == {"t_acc": 0, "t_ned": 0, "exact_match": 0, "cer": 1}
    assert result["ocr"]["original"]["exact_match"] == 1
    assert result["psnr"] < 20 and result["ssim"] < 0.9


def test_scores_by_text_size_and_kind():
    scores = measure(fake_tokenizer(), ITEMS, [FakeReader(ITEMS, wrong=("word",))]).figures
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
    result = measure(fake_tokenizer(lambda x: x * 1.5 + 0.1), items, batch_size=1).figures
    originals = torch.cat([to_tensor(item.image).flatten() for item in items])
    got = ((originals * 1.5 + 0.1).clamp(-1, 1) + 1) / 2  # what leaves the range is cut off
    difference = got - (originals + 1) / 2
    assert result["l1"] == pytest.approx(difference.abs().mean().item(), rel=1e-4)
    assert result["mse"] == pytest.approx(difference.square().mean().item(), rel=1e-4)
    assert result["psnr"] == pytest.approx(-10 * math.log10(difference.square().mean().item()), rel=1e-4)
    assert "ocr" not in result


def test_several_codes_at_a_position_cost_several_times_the_bits():
    one, three = (measure(fake_tokenizer(n=n), ITEMS[:1]).figures for n in (1, 3))
    assert (one["codes_per_position"], three["codes_per_position"]) == (1, 3)
    assert (one["tokens_per_image"], three["tokens_per_image"]) == (16, 48)
    assert three["bits_per_pixel"] == 3 * one["bits_per_pixel"] == pytest.approx(3 * 4 * 16 / (64 * 16))
    # 8 codes of 16 in each of three slots, all equally often; pooled they would be 10 of 16.
    assert three["codebook_usage"] == one["codebook_usage"] == 8 / 16
    assert three["perplexity"] == pytest.approx(8)


def test_codes_are_counted_over_the_whole_set():
    items = [Item(Image.new("RGB", size)) for size in ((8, 8), (32, 8), (16, 8))]
    result = measure(fake_tokenizer(), items).figures
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
        image_tokenizer, pictures, batch_size=2, on_batch=lambda some, *_: batches.append(some)
    )
    assert sorted(batches) == [[0, 2], [1, 4], [3]]
    for picture, got in zip(pictures, together):
        (alone,) = reconstruct_pictures(image_tokenizer, [picture])
        assert got.size == picture.size
        assert (to_tensor(got) - to_tensor(alone)).abs().max() < 0.02  # one step of 255


def test_a_page_too_large_for_a_batch_goes_in_tiles(photo, monkeypatch):
    config = ImageTokenizerConfig(stem=4, channels=(8, 16), res_blocks=1, norm="layer")
    tokenizer = ImageTokenizer(config).eval()
    page = photo.resize((160, 96))
    seen = []
    (whole,) = reconstruct_pictures(tokenizer, [page], on_batch=lambda _, x, y, codes: seen.append(codes))
    monkeypatch.setattr(reconstruction, "BATCH_PIXELS", 96 * 96)
    monkeypatch.setattr(reconstruction, "encode_tiled", partial(encode_tiled, tile=96))
    (tiled,) = reconstruct_pictures(tokenizer, [page], on_batch=lambda _, x, y, codes: seen.append(codes))
    assert torch.equal(*seen)
    assert (to_tensor(tiled) - to_tensor(whole)).abs().max() < 0.02  # one step of 255


def test_a_real_tokenizer_takes_images_of_any_size(image_tokenizer, photo):
    items = [Item(photo.resize(size)) for size in ((16, 16), (30, 21), (3, 3), (200, 9))]
    done = []
    result = measure(image_tokenizer, items, progress=lambda *step: done.append(step)).figures
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
    assert ssim(a * 2 - 1, a * 2 - 1).item() == pytest.approx(1)
    found = ssim(a * 2 - 1, b * 2 - 1).item()
    # Where the window reaches over the edge the image is mirrored, so compare with the mirrored one.
    pad = window // 2
    a, b = (nn.functional.pad(z, (pad,) * 4, mode="reflect")[0] for z in (a, b))
    assert found == pytest.approx(plain_ssim(a, b, window, sigma), abs=1e-4)


@pytest.mark.parametrize("size", [(16, 64), (40, 33), (70, 51)])
def test_pixel_scores_in_bands_equal_those_of_torchmetrics(size, monkeypatch):
    monkeypatch.setattr(pixels, "BAND", 3 * 16 * 64)
    noise = torch.Generator().manual_seed(0)
    a = nn.functional.avg_pool2d(torch.rand(3, 3, *size, generator=noise), 3, 1, 1)
    b = (a + 0.2 * torch.rand(a.shape, generator=noise)).clamp(0, 1)
    scores = PixelScores()
    each = scores.update(b * 2 - 1, a * 2 - 1)
    found = scores.compute()
    expected = {
        "l1": mean_absolute_error(b.flatten(), a.flatten()),
        "mse": mean_squared_error(b.flatten(), a.flatten()),
        "psnr": peak_signal_noise_ratio(b, a, data_range=1.0),
        "ssim": structural_similarity_index_measure(b, a, sigma=1.5, data_range=1.0),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), rel=1e-5)
    assert each == pytest.approx([peak_signal_noise_ratio(x, y, data_range=1.0).item() for x, y in zip(b, a)])


def test_ssim_has_no_value_below_three_pixels():
    assert ssim(*torch.rand(2, 1, 3, 2, 16)).isnan().all()


def test_a_text_takes_up_its_ink(photo):
    item = word_item("three", None)
    (text,) = passages([item], [item.image])
    assert text.relative_size == pytest.approx(30 / 5 / 64)
    assert text.pixels == text.glyph_height == 10 and text.crop is None
    twice = word_item("three").image.resize((128, 32))
    (text,) = passages([word_item("three", 12)], [twice])
    assert (text.pixels, text.glyph_height) == (24, 20)
    assert passages([Item(photo), Item(photo, "  ")], [photo, photo]) == []


def test_no_images_is_an_error(image_tokenizer):
    with pytest.raises(ValueError, match="items is empty"):
        measure(image_tokenizer, [])


def page_item(texts=("one", "three", "xq")) -> Item:
    """A page with a box for each text, a box across the edge, and a box outside."""
    page = Image.new("RGB", (160, 96), (250, 240, 200))
    boxes = []
    for i, text in enumerate(texts):
        left, top = 8 + 30 * i, 10 + 24 * i
        page.paste(word_item(text).image.crop((2, 3, 2 + 6 * len(text), 13)), (left, top))
        boxes.append(TextRegion(text, left, top, left + 6 * len(text), top + 10, 12.0))
    return Item(page, None, None, "page", "page", tuple(boxes))


def test_boxes_are_read_one_by_one_with_a_margin():
    item = page_item()
    texts = passages([item], [item.image])
    assert [text.text for text in texts] == ["one", "three", "xq"]
    assert texts[1].crop == (37, 33, 69, 45)  # (38, 34, 68, 44) and 1 px on each side
    assert texts[1].relative_size == pytest.approx(30 / 5 / 160)
    assert (texts[1].pixels, texts[1].glyph_height) == (12, 10)
    reader = FakeReader([Item(text.picture(item.image), text.text) for text in texts])
    scores = measure(fake_tokenizer(), [item], [reader]).figures["ocr_by_reader"]["fake"]
    assert (scores["items"], scores["counted"]) == (3, 3)
    assert [row["bin"] for row in scores["by_glyph_height"]["bins"]] == ["[10, 12)"]
    assert scores["by_kind"]["page"]["reconstruction"]["t_acc"] == 1


def test_boxes_follow_their_image_to_another_size():
    item = page_item(("one",))
    (text,) = passages([item], [item.image.resize((320, 288))])
    assert text.crop == (16 - 2, 30 - 2, 16 + 36 + 2, 30 + 30 + 2)
    assert (text.pixels, text.glyph_height) == (36, 30)
    (text,) = passages([item], [Image.new("RGB", (168, 104))], "pad")  # white behind it: nothing moves
    assert text.crop == (7, 9, 27, 21)
    (text,) = passages([item], [Image.new("RGB", (80, 56))], "pad")
    assert text.crop == (3, 4, 14, 11)


def test_boxes_outside_the_image_and_without_a_text_are_left_out():
    image = Image.new("RGB", (32, 16))
    boxes = (
        TextRegion("over the edge", 20, -5, 90, 9),
        TextRegion("outside", 40, 2, 60, 9),
        TextRegion("  ", 2, 2, 9, 9),
        TextRegion("flat", 2, 9, 20, 9),
    )
    (text,) = passages([Item(image, "all of it", boxes=boxes)], [image])
    assert (text.text, text.crop) == ("over the edge", (19, 0, 32, 10))


class FakeFinder:
    """Finds the boxes of `items` on their images."""

    name = "finder"

    def __init__(self, items):
        self.boxes: dict[bytes, list[Box]] = {}
        for item in items:
            found: list[Box] = [(int(b.left), int(b.top), int(b.right), int(b.bottom)) for b in item.boxes]
            self.boxes[item.image.tobytes()] = found

    def find(self, page) -> list[Box]:
        return self.boxes[page.tobytes()]


class ShadeReader:
    """Reads how dark an image is: "original" and "reconstruction" differ where pixels do."""

    version = "1"

    def __init__(self, name, blind=()):
        self.name, self.blind = name, blind

    def read(self, images, on_read=None):
        found = [
            "line of " + str(int(image.convert("L").resize((1, 1)).getpixel((0, 0)))) for image in images
        ]
        return ["" if image.height in self.blind else text for text, image in zip(found, images)]


def test_pages_without_a_transcript_are_compared_with_the_reading_of_the_original():
    page, blank, word = page_item(), Item(Image.new("RGB", (64, 64)), name="blank"), ITEMS[0]
    bare = Item(page.image, "  ", name="bare")
    readers = [ShadeReader("dark"), ShadeReader("half", blind=(12,))]  # boxes of 10 px, 1 px around them
    finder = FakeFinder([page, blank])
    same = measure(fake_tokenizer(), [bare, blank, word], readers, finder=finder, ceilings=True)
    found = same.figures["ocr_of_original"]
    assert found["reference"] == reconstruction.OCR_OF_ORIGINAL and "not a transcript" in found["reference"]
    assert (found["images"], found["lines"], found["finder"]) == (2, 3, "finder")
    assert found["without_lines"] == ["blank"]
    dark, half = (found["by_reader"][reader.name] for reader in readers)
    assert (dark["lines"], dark["unread"], dark["ned"], dark["exact_match"], dark["cer"]) == (3, 0, 1, 1, 0)
    assert (half["lines"], half["unread"], half["ned"]) == (0, 3, None)
    assert [row["bin"] for row in dark["by_height"]["bins"]] == ["[10, 12)"]
    assert same.figures["ocr_by_reader"]["dark"]["items"] == 1  # the word alone has a transcript
    for row in same.figures["ceilings"].values():
        assert row["ocr_of_original"]["by_reader"]["dark"]["lines"] == 3
    bare_result, blank_result, word_result = same.results
    assert (bare_result.transcript, blank_result.transcript, word_result.transcript) == (False, False, True)
    assert bare_result.t_ned("dark") == 1 and bare_result.t_ned("half") is None
    json.dumps(same.figures, allow_nan=False)

    white = measure(fake_tokenizer(torch.ones_like), [bare], readers[:1], finder=finder)
    pairs = [read["dark"] for _, read in white.results[0].readings]
    distances = [1 - edit_distance(a, b) / max(len(a), len(b)) for a, b in pairs]
    assert white.figures["ocr_of_original"]["by_reader"]["dark"]["ned"] == pytest.approx(sum(distances) / 3)
    assert 0 < (white.results[0].t_ned("dark") or 0) < 1
    assert "ocr_of_original" not in measure(fake_tokenizer(), [bare], readers).figures  # nobody asked

    console = Console(width=100)
    with console.capture() as printed:
        console.print(table(same.figures))
    for expected in ("not a transcript", "dark 1", "as jpeg", "no text found on 1 images: blank"):
        assert expected in printed.get()


@pytest.mark.parametrize("n", [1, 4])
def test_ceilings_have_the_same_scores_at_no_more_bits(n):
    result = measure(fake_tokenizer(n=n), ITEMS, [FakeReader(ITEMS)], ceilings=True).figures
    assert {"downscale", "jpeg"} <= set(result["ceilings"])
    for row in result["ceilings"].values():
        assert 0 <= row["bits_per_pixel"] <= result["bits_per_pixel"]
        assert row["psnr"] < 40 and 0 < row["ssim"] < 1
        assert row["ocr"]["original"] == result["ocr"]["original"]
        assert row["ocr_by_reader"]["fake"]["items"] == 4
    json.dumps(result, allow_nan=False)


def test_the_headline_for_a_log():
    result = measure(fake_tokenizer(torch.ones_like), ITEMS, [FakeReader(ITEMS)]).figures
    flat = flat_figures(result)
    assert flat["fake/t_acc"] == 0 and flat["fake/cer"] == 1
    assert flat["psnr"] == result["psnr"] and flat["codebook_usage"] == 0.5
    assert "lpips" not in flat and all(isinstance(value, float) for value in flat.values())
    assert "psnr" not in flat_figures(measure(fake_tokenizer(), ITEMS).figures)  # infinite


class SquaredDistance(nn.Module):
    """A substitute for LPIPS."""

    def forward(self, images, targets):
        assert images.min() >= -1 and images.max() <= 1
        return (images - targets).square().mean((1, 2, 3))


class FirstPixel(nn.Module):
    """A substitute for Inception."""

    num_features = 3

    def forward(self, images):
        return images[:, :, 4, 4].double()


def test_lpips_and_rfid_of_every_row_where_there_are_weights():
    extra = Perceptual(None, None)
    extra.lpips = SquaredDistance()  # type: ignore[assignment]
    extra.fid = FrechetInceptionDistance(FirstPixel(), normalize=True, reset_real_features=False)
    noise = torch.Generator().manual_seed(0)
    items = [Item(to_pil(torch.rand(3, 16, w, generator=noise) * 2 - 1)) for w in (16, 32, 32, 48)]
    for _ in range(2):  # the second time it has forgotten the first
        same = measure(fake_tokenizer(), items, perceptual=extra).figures
        assert same["not_measured"] == {} and same["lpips"] == 0
        assert same["rfid"] == pytest.approx(0, abs=1e-4)
    other = measure(
        fake_tokenizer(lambda x: (x * 4).clamp(-1, 1)), items, perceptual=extra, ceilings=True
    ).figures
    for row in (other, *other["ceilings"].values()):
        assert row["lpips"] > 0.01 and row["rfid"] > 0.001
    nothing = measure(fake_tokenizer(), items).figures
    assert nothing["lpips"] is None and nothing["rfid"] is None
    assert all("no weights were given" in nothing["not_measured"][name] for name in ("lpips", "rfid"))


def test_samples_for_the_eye():
    measured = measure(fake_tokenizer(), ITEMS, [FakeReader(ITEMS, wrong=("word",))], ceilings=True)
    first, last = measured.results[0], measured.results[-1]
    assert first.readings == [("one", {"fake": ("one", "one")})] and first.t_ned("fake") == 1
    assert last.t_ned("fake") is None  # not read in the original
    assert first.psnr is None and first.reconstruction.tobytes() == ITEMS[0].image.tobytes()
    assert set(first.ceilings) == set(measured.figures["ceilings"])


def test_the_table_prints_every_figure():
    items = [*ITEMS, Item(ITEMS[0].image, "odd", 12.0, "[red]odd")]
    result = measure(fake_tokenizer(torch.ones_like), items, [FakeReader(items)]).figures
    console = Console(width=200)
    with console.capture() as printed:
        console.print(table(result))
    text = printed.get()
    for expected in ("PSNR", "50.0% of 16", "fake 1"):
        assert expected in text
    for expected in (
        "glyphs [10, 12) px",
        "size [0.04, 1)",
        "[red]odd",
        "empty: [0.02, 0.03)",
    ):
        assert expected in text
