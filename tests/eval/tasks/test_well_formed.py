"""Whether sequences are documents."""

import torch

from earlyfusion.eval.tasks.well_formed import evaluate_form, free_sequences, is_document
from earlyfusion.tokenizers.documents import interleave


def test_what_is_a_document(vocab) -> None:
    slots = (n,) if (n := vocab["image"].slots) > 1 else ()
    image = ("image", torch.zeros(2, 2, *slots, dtype=torch.int64))
    ids = torch.tensor(
        [i for _, first, count in vocab["text"].ranges for i in range(first, first + count)][:3]
    )
    whole = interleave([("text", ids), image], vocab)
    assert is_document(whole, vocab) and is_document(whole[:-1], vocab) and is_document(whole[:8], vocab)
    assert is_document(torch.tensor([vocab.bos]), vocab) and is_document(
        torch.tensor([vocab.bos, vocab.eos]), vocab
    )
    cut = torch.cat([whole[:-3], whole[-1:]])
    for wrong in (
        cut,  # eos inside the image
        torch.cat([whole[:-1], torch.tensor([vocab.roles["end_image"]])]),
        torch.cat([whole[:2], torch.tensor([vocab.pad]), whole[2:]]),
        torch.cat([whole, whole[1:]]),
        torch.cat([whole[:-1], whole]),
    ):
        assert not is_document(wrong, vocab)


def test_form_with_the_grammar_and_without(model, vocab) -> None:
    result = evaluate_form(model, vocab, sequences=30, without=20, batch_size=16, seed=1)
    assert result["grammar"]["items"] == 30 and result["grammar"]["well_formed"] == 1.0
    assert result["free"]["items"] == 20 and result["free"]["well_formed"] < 1.0  # an untrained model


def test_free_sequences_are_draws_of_single_rows(model, vocab) -> None:
    """Each row depends on its own seed alone and ends at its first eos."""
    rows = free_sequences(model, vocab, 12, 5)
    assert all(1 < len(row) <= model.config.context_length and row[0] == vocab.bos for row in rows)
    assert all(vocab.eos not in row[:-1] for row in rows)
    assert any(row[-1] == vocab.eos for row in rows) and len({len(row) for row in rows}) > 1
    (alone,) = free_sequences(model, vocab, 1, 8)
    assert alone.tolist() == rows[3].tolist()
