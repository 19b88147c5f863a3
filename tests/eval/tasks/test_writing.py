import json

import pytest
from PIL import Image
from rich.console import Console

from earlyfusion.eval.items import Word
from earlyfusion.eval.report.page.tables import writing_table
from earlyfusion.eval.tasks import writing
from earlyfusion.eval.tasks.reconstruction import reconstruct_pictures
from earlyfusion.fusion_lm.guidance import Guidance
from earlyfusion.fusion_lm.sampling import Sampling

WORDS = [Word("cat", "word"), Word("house", "word"), Word("xq", "random"), Word(" red apple ", None)]


def test_pictures_are_read_by_each_reader(model, document_tokenizer, shades, pixel_reader):
    pictures = [shades[0].image, shades[1].image, None, shades[3].image]
    lead = pixel_reader(
        "lead", [(shades[0].image, "cat"), (shades[1].image, "mouse"), (shades[3].image, "red apple")]
    )
    strict = pixel_reader("strict", [(shades[0].image, "cat")])
    steps = []
    result = writing.evaluate_writing(
        model,
        document_tokenizer,
        WORDS,
        [lead, strict],
        pictures=pictures,
        progress=lambda *step: steps.append(step),
    )
    assert (result["reader"], result["items"], result["exact_match"]) == ("lead", 4, 0.5)
    assert result["cer"] == pytest.approx((0 + 1 + 2 + 0) / 19)
    assert result["by_reader"]["strict"]["exact_match"] == result["all_readers_exact_match"] == 0.25
    assert result["unfinished"] == 1
    assert result["by_kind"]["random"] == {"items": 1, "exact_match": 0, "cer": 1}
    assert result["rows"][1] == {
        "text": "house",
        "kind": "word",
        "size": [32, 16],
        "lead": "mouse",
        "strict": "",
    }
    assert result["rows"][2] == {"text": "xq", "kind": "random", "size": None, "lead": "", "strict": ""}
    assert steps == [("lead: written words", 3, 3), ("strict: written words", 3, 3)]
    json.dumps(result, allow_nan=False)


def test_the_ceiling_is_reported(model, document_tokenizer, shades, pixel_reader):
    words = [Word(item.text, item.kind) for item in shades]
    after = reconstruct_pictures(document_tokenizer.image, [item.image for item in shades])
    known = [(item.image, item.text) for item in shades] + [(after[0], shades[0].text)]
    result = writing.evaluate_writing(
        model, document_tokenizer, words, [pixel_reader("lead", known)], originals=shades, pictures=[None] * 6
    )
    assert (result["exact_match"], result["cer"], result["unfinished"]) == (0, 1, 6)
    assert result["ceiling"]["lead"]["original"] == {"exact_match": 1, "cer": 0}
    assert result["ceiling"]["lead"]["reconstruction"]["exact_match"] == pytest.approx(1 / 6)
    console = Console(width=100)
    with console.capture() as printed:
        console.print(writing_table(result))
    text = printed.get()
    assert "lead 1" in text and text.count("ceiling") == 2 and "6 without" in text


def write_all(*args, **options) -> list[Image.Image]:
    pictures = writing.write_words(*args, **options)
    finished = [picture for picture in pictures if picture is not None]
    assert len(finished) == len(pictures)
    return finished


def test_an_untrained_model_writes_whole_pictures_reproducibly(model, document_tokenizer):
    first, again, other = (
        write_all(model, document_tokenizer, WORDS, sampling=Sampling(temperature=1.0), seed=seed)
        for seed in (1, 1, 2)
    )
    assert [p.tobytes() for p in first] == [p.tobytes() for p in again] != [p.tobytes() for p in other]
    assert all(p.width % 8 == p.height % 8 == 0 for p in first)


def test_the_best_of_several_is_written(model, document_tokenizer, pixel_reader):
    """Two runs draw the same pictures; the result records how they were chosen."""
    asked = {"sampling": Sampling(temperature=1.0), "best_of": 3, "best_by": "both"}
    guided = asked | {"guidance": Guidance(2.0), "seed": 4}
    pictures = write_all(model, document_tokenizer, WORDS, **guided)
    assert len(pictures) == 4
    again = write_all(model, document_tokenizer, WORDS, **guided)
    assert [p.tobytes() for p in pictures] == [p.tobytes() for p in again]
    result = writing.evaluate_writing(
        model, document_tokenizer, WORDS, [pixel_reader("lead", [])], batch_size=7, **guided
    )
    assert result["sampling"]["best_of"] == 3 and result["sampling"]["best_by"] == "both"
    assert result["sampling"]["guidance"] == 2.0 and result["unfinished"] == 0
    console = Console(width=100)
    with console.capture() as printed:
        console.print(writing_table(result))
    assert "4 words, guidance 2, best of 3" in printed.get()


def test_order_does_not_depend_on_batches(model, document_tokenizer):
    together = write_all(model, document_tokenizer, WORDS)
    for word, picture in zip(WORDS, together):
        (alone,) = write_all(model, document_tokenizer, [word], batch_size=1)
        assert alone.size == picture.size


def test_what_cannot_be_written_is_one_line(model, document_tokenizer, pixel_reader):
    with pytest.raises(ValueError, match=r"earlyfusion\[ocr\]"):
        writing.evaluate_writing(model, document_tokenizer, WORDS, [])
    with pytest.raises(ValueError, match="words is empty"):
        writing.evaluate_writing(model, document_tokenizer, [], [pixel_reader("lead", [])])
    with pytest.raises(ValueError, match=r"a.ud800") as caught:
        writing.write_words(model, document_tokenizer, [Word("a\ud800")])
    str(caught.value).encode()
    with pytest.raises(ValueError, match="context"):
        writing.write_words(model, document_tokenizer, [Word("x" * 500)])
