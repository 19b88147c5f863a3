"""Tokens as people read them, and the maps drawn from their figures."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from earlyfusion.eval.report.codebook_map import codebook_map
from earlyfusion.eval.report.heat_map import heat_map, legend
from earlyfusion.eval.report.page.html import token_strip
from earlyfusion.eval.report.tokens import describe, grids, strip_cells
from earlyfusion.fusion_lm.scores import TokenScores
from earlyfusion.tokenizers.documents import DocumentTokenizer, interleave
from earlyfusion.tokenizers.image import ImageTokenizer, ImageTokenizerConfig
from earlyfusion.tokenizers.text import TextTokenizer
from earlyfusion.tokenizers.vocab import SharedVocab


@pytest.mark.parametrize("scan", ["rows", "columns"])
@pytest.mark.parametrize("slots", [1, 2])
def test_every_token_says_what_it_is_and_where(text_tokenizer: TextTokenizer, scan: Any, slots: int):
    vocab = SharedVocab.build(
        text=text_tokenizer, codebook_size=32, max_grid=8, codes_per_position=slots, scan=scan
    )
    config = ImageTokenizerConfig(
        stem=4, channels=(8, 16), res_blocks=1, codebook_size=32, codebook_dim=4, groups=slots
    )
    tokenizer = DocumentTokenizer(vocab, text=text_tokenizer, image=ImageTokenizer(config))
    codes = torch.arange(2 * 3 * slots).view(2, 3, *([slots] if slots > 1 else []))
    ids = torch.tensor(text_tokenizer.encode("A red apple."))
    tokens = interleave([("image", codes), ("text", ids), ("image", codes + 1)], vocab)
    found = describe(tokenizer, tokens)
    assert [token.token for token in found] == tokens.tolist()
    assert "".join(token.says for token in found if token.kind == "text") == "A red apple."
    assert [token.says for token in found if token.kind == "structure"] == [
        *("bos", "begin_image", "2", "3", "end_image"),
        *("begin_image", "2", "3", "end_image", "eos"),
    ]
    for image, shift in ((0, 0), (1, 1)):
        mine = [token for token in found if token.block == image]
        assert len(mine) == 6 * slots
        for slot in range(slots):
            for token in mine[slot::slots]:
                assert token.place is not None
                row, column = token.place
                code = codes[row, column] if slots == 1 else codes[row, column, slot]
                which = f" of slot {slot + 1}" if slots > 1 else ""
                assert token.says == f"code {int(code) + shift}{which}"


def test_scores_come_into_the_strip_and_the_grids(document_tokenizer: DocumentTokenizer):
    vocab = document_tokenizer.vocab
    tokens = interleave([("image", torch.tensor([[1, 2], [3, 4]]))], vocab)
    log_p = -torch.arange(len(tokens)).float() / 10
    log_p[0] = math.nan
    entropy = torch.arange(len(tokens)).float()
    entropy[0] = math.nan
    found = describe(document_tokenizer, tokens, TokenScores(log_p, entropy))
    assert found[0].p is None and found[5].p == pytest.approx(math.exp(-0.5))
    [grid] = grids(found, "entropy")
    assert grid.tolist() == [[4, 5], [6, 7]]
    assert np.isnan(grids(describe(document_tokenizer, tokens), "p")[0]).all()
    cells = strip_cells(found, prompt_length=2)
    assert [cell.given for cell in cells[:3]] == [True, True, False]
    where = f"code 2 (token {int(tokens[5])}) · picture 1, row 1, column 2"
    assert cells[5].detail == f"5: {where}; probability 60.7%, entropy 5.00 nats"
    strip = token_strip(cells)
    assert strip.count("<i ") == len(tokens) and 'data-place="1,1"' in strip and "--p:0.607" in strip
    assert 'class="structure given"' in strip


def test_an_image_that_is_cut_short_has_the_codes_that_are_there(document_tokenizer: DocumentTokenizer):
    tokens = interleave([("image", torch.tensor([[1, 2], [3, 4]]))], document_tokenizer.vocab)[:-3]
    places = [token.place for token in describe(document_tokenizer, tokens) if token.kind == "image"]
    assert places == [(0, 0), (0, 1), (1, 0)]


def test_heat_maps_color_each_cell_and_leave_the_unknown_gray():
    picture = Image.new("RGB", (32, 16), "white")
    found = heat_map(picture, np.array([[0.0, 1.0], [np.nan, 5.0]]), 0, 1)
    assert found.size == (32, 16)
    low, high, unknown, above = (found.getpixel(place) for place in ((3, 3), (20, 3), (3, 12), (20, 12)))
    assert high == above and len({low, high, unknown}) == 3
    assert isinstance(unknown, tuple) and len(set(unknown)) == 1
    assert found.getpixel((15, 7)) == low and found.getpixel((16, 7)) == high
    with pytest.raises(ValueError, match="32 x 16.* 3 x 2 "):
        heat_map(picture, np.zeros((2, 3)), 0, 1)
    assert legend(40, 4).size == (40, 4)


def test_the_map_of_the_codebook_shows_each_code_once(image_tokenizer: ImageTokenizer):
    found = codebook_map(image_tokenizer)
    assert found.codes.shape == (6, 6) and found.picture.size == (48, 48)
    assert sorted(found.codes[found.codes >= 0]) == list(range(32))
    row, column = (int(place[0]) for place in np.where(found.codes == 7))
    cell = np.asarray(found.picture)[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
    alone = image_tokenizer.decode(torch.full((1, 3, 3), 7))[0, :, 8:16, 8:16]
    expected = ((alone + 1) * 127.5).clamp(0, 255).round().permute(1, 2, 0).numpy()
    assert np.abs(cell - expected).max() <= 1
    with pytest.raises(ValueError, match="slot.*1"):
        codebook_map(image_tokenizer, 1)


def test_a_codebook_of_several_slots_has_a_map_for_each():
    torch.manual_seed(0)
    config = ImageTokenizerConfig(
        stem=4, channels=(8, 16), res_blocks=1, codebook_size=16, codebook_dim=4, groups=2
    )
    tokenizer = ImageTokenizer(config).eval()
    maps = [codebook_map(tokenizer, slot) for slot in (0, 1)]
    assert all(sorted(found.codes.flatten()) == list(range(16)) for found in maps)
    assert maps[0].picture.tobytes() != maps[1].picture.tobytes()
