"""What can be done with a picture or an answer: read it, redraw a part, see a token's rivals, fork there."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ..fusion_lm.folder import Model
from ..fusion_lm.infill import infill
from ..fusion_lm.inputs import Inputs
from ..fusion_lm.prompts import read_prompts
from ..fusion_lm.stream import decoded
from ..tokenizers.documents import Part, split
from ..tokenizers.modality import TEXT
from .compose import WORK, Ask, Written, fitted, resume
from .limits import Refused

TOP = 8
"""Candidates of a token that are shown."""
TILE = 3
"""A code's thumbnail is the middle of N x N copies of it, decoded."""
READING = 64
"""Maximum number of tokens of a reading."""


class Candidate(NamedTuple):
    """A token that the model could have chosen at a place."""

    token: int
    says: str
    """Its text, its code, or its role."""
    p: float
    picture: Image.Image | None
    """A code, decoded among copies of itself."""
    chosen: bool
    """It is the document's."""
    legal: bool
    """The document can continue with it."""


def read_it(model: Model, segments: Sequence[str | Image.Image], ask: Ask, views: int) -> Written:
    """Read the last picture of ``segments`` in several views (see ``eval.tasks.reading``).

    Raises:
        Refused: The prompt has no picture, or no room for its text.
    """
    from ..eval.tasks.continuations import image_prompts  # their metrics take seconds to import
    from ..eval.tasks.reading import readings

    lm, tokenizer = model
    pictures = [segment for segment in fitted(model, segments, ask) if isinstance(segment, Image.Image)]
    if not pictures:
        raise Refused("no picture to read: add one, or choose an example")
    try:
        pixels = tokenizer.prepare("image", pictures[-1])
        prompts = image_prompts(tokenizer, [pixels])
        room = lm.config.context_length - len(prompts[0])
        if room < 1:
            raise Refused(f"the picture has {len(prompts[0])} tokens and leaves no room: allow fewer codes")
        views = min(views, tokenizer.image.factor)
        read = readings(
            lm,
            tokenizer,
            [pixels],
            prompts,
            views=views,
            max_new_tokens=min(room, READING),
            seed=ask.seed,
        )
        text = tokenizer.vocab.to_tokens(
            "text", torch.tensor(tokenizer.text.encode(read[0]), dtype=torch.int64)
        )
    except ValueError as error:
        raise Refused(str(error)) from None
    eos = torch.tensor([tokenizer.vocab.eos])
    tokens = torch.cat([prompts[0], text, eos])[: lm.config.context_length]
    return Written(
        [pictures[-1]], [read[0]] if read[0] else [], None, "eos", tokens, len(prompts[0]), seed=ask.seed
    )


def redraw(model: Model, tokens: Tensor, block: int, mask: Tensor, ask: Ask) -> list[Written]:
    """Redraw a part of a picture of a document (T,); the segments after the picture are dropped.

    Args:
        model: The model.
        tokens: The document.
        block: Which of its blocks (pictures, ...) it is: 0, 1, ...
        mask: (rows, columns) bool, stretched over the picture.
        ask: ``samples`` of ``samples * best_of`` drawings are kept, the likeliest first.

    Raises:
        Refused: The picture is not found, or that would be too much work.
        ValueError: The tokens are not a document in the model's vocabulary.
    """
    lm, tokenizer = model
    parts = split(tokens, tokenizer.vocab, partial="drop")
    places = [n for n, part in enumerate(parts) if part.kind != TEXT]
    if not 0 <= block < len(places) or parts[places[block]].kind != "image":
        raise Refused(f"picture {block + 1} not found: the document has {len(places)}")
    kept = parts[: places[block] + 1]
    count = ask.samples * ask.best_of
    if (work := count * ask.guidance.branches * lm.config.context_length) > WORK and count > 1:
        raise Refused(f"{count} drawings may take {work:,} tokens, more than {WORK:,}: take fewer tries")
    negative = tokenizer.encode([ask.negative], eos=False).tokens if ask.negative else None
    try:
        drawings = infill(
            model,
            kept,
            mask,
            candidates=count,
            sampling={"text": ask.text, "image": ask.image},
            seed=ask.seed,
            guidance=ask.guidance,
            negative=negative,
        )
    except ValueError as error:
        raise Refused(str(error)) from None
    before = tokenizer.encode(kept[:-1], eos=False).tokens
    shown = decoded(tokenizer, before)
    found = []
    for drawing in drawings:
        whole = tokenizer.encode([*kept[:-1], Part("image", drawing.codes)], eos=False).tokens
        found.append(Written(shown, [drawing.image], None, "image", whole, len(before), seed=ask.seed))
    best = found[: ask.samples]
    best[0].others = found[ask.samples :]
    return best


@torch.inference_mode()
def candidates(model: Model, tokens: Tensor, place: int) -> list[Candidate]:
    """The likeliest tokens at a place of a document (T,), and the document's own.

    Raises:
        Refused: The place is not in the document, or is its first.
        ValueError: The tokens are not a document in the model's vocabulary.
    """
    lm, tokenizer = model
    if not 0 < place < len(tokens):
        raise Refused(f"token {place} cannot be chosen: expected 1 to {len(tokens) - 1}")
    before = tokens[:place]
    read_prompts(tokenizer.vocab, [before], lm.config.context_length)
    p = lm(Inputs(before[None].to(lm.embedding.weight.device)))[0, -1].float().softmax(-1).cpu()
    actual = int(tokens[place])
    likely = p.topk(min(TOP, len(p))).indices.tolist()
    found = likely if actual in likely else [*likely[: TOP - 1], actual]
    return [_candidate(model, before, token, float(p[token]), token == actual) for token in found]


def _candidate(model: Model, before: Tensor, token: int, p: float, chosen: bool) -> Candidate:
    lm, tokenizer = model
    vocab, value = tokenizer.vocab, torch.tensor([token])
    document = torch.cat([before, value])
    try:
        read_prompts(vocab, [document], lm.config.context_length)
        legal = True
    except ValueError:
        legal = False
    roles = {number: role for role, number in vocab.roles.items()}
    if token in roles:
        return Candidate(token, roles[token], p, None, chosen, legal)
    if bool(vocab.is_text(value)):
        return Candidate(
            token, tokenizer.text.decode(vocab.to_codes("text", value).tolist()), p, None, chosen, legal
        )
    images = vocab["image"]
    try:
        code = int(vocab.tokens_to_ids("image", value)) % images.codebook_size
    except ValueError:
        return Candidate(token, f"token {token}", p, None, chosen, legal)
    drawn = None
    if images.slots == 1 and tokenizer.image.config.decoder:
        side = tokenizer.image.factor
        [tiled] = tokenizer.decode_codes("image", [torch.full((TILE, TILE), code)])
        drawn = tokenizer.codecs["image"].show(tiled).crop((side, side, 2 * side, 2 * side))
    return Candidate(token, f"code {code}", p, drawn, chosen, legal)


def fork(
    model: Model, tokens: Tensor, place: int, token: int, ask: Ask, stopped: Callable[[], bool] | None = None
) -> Iterator[list[Written]]:
    """Continue a document (T,) from ``place`` on, with ``token`` there.

    Raises:
        Refused: The place is not in the document, or the token cannot follow what is before it.
    """
    if not 0 < place < len(tokens):
        raise Refused(f"token {place} cannot be chosen: expected 1 to {len(tokens) - 1}")
    start = torch.cat([tokens[:place], torch.tensor([token])])
    try:
        read_prompts(model.tokenizer.vocab, [start], model.lm.config.context_length)
        prompt = decoded(model.tokenizer, start)
        yield from resume(model, prompt, model.tokenizer.positioned(start), ask, stopped)
    except ValueError as error:
        raise Refused(str(error)) from None
