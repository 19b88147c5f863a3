"""The events of ``stream`` together are what ``generate`` returns."""

import pytest
import torch
from PIL import Image, ImageChops

from earlyfusion.fusion_lm.folder import Model, load_model
from earlyfusion.fusion_lm.generate import LENGTH, RUNNING, generate
from earlyfusion.fusion_lm.sampling import Sampling
from earlyfusion.fusion_lm.stream import (
    Event,
    Finished,
    SegmentBegin,
    SegmentDone,
    SegmentProgress,
    TextDelta,
    gather,
    sample,
    stream,
)
from earlyfusion.tokenizers.documents import Segment
from earlyfusion.tokenizers.layout import Cursor
from earlyfusion.tokenizers.pixels import to_pil

PROMPTS: list[list[Segment]] = [
    [],
    ["A red apple:"],
    [Image.new("RGB", (16, 8), "red"), "is red "],
    ["a", Image.new("RGB", (8, 24), "blue")],
]
OPTIONS = {"max_new_tokens": 60, "seed": 3, "sampling": {"text": Sampling(1.3)}, "shapes": {"image": (2, 3)}}


@pytest.fixture
def model(model_folder) -> Model:
    return load_model(model_folder)


def wholes(
    model: Model, **options
) -> tuple[list[list[str | Image.Image]], list[tuple[str, tuple[int, ...]]]]:
    """The decoded result of ``generate``, and each row's stop reason and tokens."""
    tokenizer = model.tokenizer
    results = generate(
        model.lm, tokenizer.vocab, tokenizer.encode_many(PROMPTS, eos=False), **OPTIONS | options
    )
    parts = [tokenizer.decode(r.tokens[r.prompt_length :], partial="drop") for r in results]
    ends = [(r.stop, tuple(r.tokens[r.prompt_length :].tolist())) for r in results]
    return [[s if isinstance(s, str) else to_pil(s) for s in p] for p in parts], ends


def same(a: str | Image.Image, b: str | Image.Image) -> bool:
    if isinstance(a, str) or isinstance(b, str):
        return a == b
    difference = ImageChops.difference(a, b)
    return a.size == b.size and max(high for _, high in difference.getextrema()) <= 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "images"),
    [({}, 2), ({"then": "image", "stop_after": "image"}, 4), ({"max_blocks": 0}, 0)],
    ids=str,
)
def test_streamed_is_whole(model: Model, options: dict, images: int) -> None:
    expected, ends = wholes(model, **options)
    events = list(stream(model, PROMPTS, **OPTIONS | options))
    finished = sorted((e for e in events if isinstance(e, Finished)), key=lambda e: e.row)
    assert [(e.stop, e.tokens) for e in finished] == ends
    streamed: list[list[str | Image.Image]] = [[] for _ in PROMPTS]
    for event in events:
        gather(streamed[event.row], event)
    for one, other, third in zip(
        streamed, expected, sample(model, PROMPTS, **OPTIONS | options), strict=True
    ):
        assert len(one) == len(other) == len(third)
        assert all(map(same, one, other)) and all(map(same, third, other))
    assert sum(isinstance(s, Image.Image) for row in streamed for s in row) >= images
    assert sum(isinstance(e, TextDelta) for e in events) > 20 or options.get("stop_after")


def test_the_events_of_an_image(model: Model) -> None:
    events = list(
        stream(model, PROMPTS[1:2], then="image", stop_after="image", shapes={"image": (3, 2)}, seed=1)
    )
    size = 2 * model.tokenizer.image.factor, 3 * model.tokenizer.image.factor
    kinds = [type(e) for e in events]
    lines = 3 if model.tokenizer.vocab.layout("image").scan == "rows" else 2
    assert kinds == [SegmentBegin, *[SegmentProgress] * lines, SegmentDone, Finished]
    first, done = events[0], events[-2]
    assert isinstance(first, SegmentBegin) and (first.modality, first.shape) == ("image", (3, 2))
    previews = [e for e in events if isinstance(e, SegmentProgress)]
    assert [e.share for e in previews] == pytest.approx([(n + 1) / lines for n in range(lines)])
    assert isinstance(done, SegmentDone) and done.value.size == size
    assert all(e.preview.size == size for e in previews)
    assert same(previews[-1].preview, done.value) and not same(previews[0].preview, done.value)
    corner = previews[0].preview.getpixel((size[0] - 1, size[1] - 1))
    assert corner == (128, 128, 128)


def test_a_row_that_ends_early_says_so_at_once(model: Model) -> None:
    options = {"max_new_tokens": 40, "sampling": {"text": Sampling(temperature=0)}, "max_blocks": 0}
    events: list[Event] = list(stream(model, [["a" * 60], []], **options))
    ends = {e.row: n for n, e in enumerate(events) if isinstance(e, Finished)}
    assert set(ends) == {0, 1} and ends[0] < ends[1] == len(events) - 1
    assert [e.stop for e in events if isinstance(e, Finished)][0] in ("context", "eos")


def test_characters_come_whole(model: Model) -> None:
    """Bytes that are a character only together, and bytes that never become one."""
    from earlyfusion.fusion_lm.stream import Row

    text, vocab = model.tokenizer.text, model.tokenizer.vocab
    for written in ("a 猫 b", "é", "🙂🙂", "x"):
        ids = text.encode(written)
        for cut in range(1, len(ids) + 1):
            row = Row(0, model.tokenizer, False, None, Cursor(vocab))
            deltas = [
                e.text
                for n, token in enumerate(vocab.to_tokens("text", torch.tensor(ids[:cut])).tolist(), start=1)
                for e in row.take(token, LENGTH if n == cut else RUNNING)
                if isinstance(e, TextDelta)
            ]
            assert "".join(deltas) == text.decode(ids[:cut])
            assert not any("\ufffd" in delta for delta in deltas[:-1])


def test_nothing_in_nothing_out(model: Model) -> None:
    assert list(stream(model, [])) == [] and sample(model, []) == []


def test_a_stopped_stream_ends_all_rows_with_what_they_have(model: Model) -> None:
    options: dict = OPTIONS | {"max_new_tokens": 60, "then": "image"}
    asked = iter([False] * 6 + [True])
    events = stream(model, PROMPTS, stopped=lambda: next(asked), **options)
    ends = {e.row: e for e in events if isinstance(e, Finished)}
    assert "stopped" in {e.stop for e in ends.values()} and len(ends) == len(PROMPTS)
    for event in stream(model, PROMPTS, **options):
        if isinstance(event, Finished):
            assert ends[event.row].tokens == event.tokens[:7]
            assert ends[event.row].stop == ("stopped" if len(event.tokens) > 7 else event.stop)
