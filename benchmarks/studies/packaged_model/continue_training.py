"""The second part of the packaged model's training: more rendered words, fewer documents that name pictures.

    earlyfusion demo --budget long --out runs/long
    python benchmarks/studies/packaged_model/continue_training.py --run runs/long --out runs/long-more

Prepares the documents of the long budget's corpus without those that name a picture, and continues training
with the model's weights and a new optimizer: half of the windows are from these documents, half from the
whole corpus. OUT/run/model is then pretrained/openmoji-words, in float32. Takes about 80 minutes on two
cores.
"""

import argparse
import random
from pathlib import Path

from earlyfusion.train.loop.process import tune_malloc

tune_malloc()  # as the training commands do, before torch allocates anything

import lightning  # noqa: E402
import torch  # noqa: E402
from datasets import Dataset, load_from_disk  # noqa: E402

from earlyfusion.data.prepare import prepare  # noqa: E402
from earlyfusion.data.prepare_config import PrepareConfig  # noqa: E402
from earlyfusion.train.lm.data import TokenData  # noqa: E402
from earlyfusion.train.lm.module import FusionLMTraining  # noqa: E402
from earlyfusion.train.lm.settings import LMSettings  # noqa: E402
from earlyfusion.train.loop.fit import fit  # noqa: E402

STEPS = 7_000


def without_naming(documents: Path, out: Path) -> None:
    """Write all documents except those of a picture and a sentence that names it, shuffled."""
    if out.exists():
        return
    corpus = load_from_disk(documents)
    assert isinstance(corpus, Dataset)
    kept = []
    for number, texts in enumerate(corpus.select_columns(["texts"])["texts"]):
        sentence = texts[1] if len(texts) == 2 and texts[0] is None else None
        if not (sentence and sentence[:2] in ("A ", "An", "So", "Th") and sentence.endswith(".")):
            kept.append(number)
    random.Random(0).shuffle(kept)
    corpus.select(kept).flatten_indices().save_to_disk(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of `demo --budget long`")
    parser.add_argument("--out", type=Path, required=True, help="working folder")
    parser.add_argument("--threads", type=int, default=2, help="threads and processes (default: 2)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, corpus = args.run / "lm" / "model", args.run / "data" / "documents"
    documents, tokens = args.out / "documents", args.out / "tokens"
    without_naming(corpus / "train", documents)
    config = PrepareConfig(
        str(documents),
        str(tokens),
        model=str(model),
        context_length=256,
        validation=str(corpus / "validation"),
    )
    prepare(config, jobs=args.threads)
    lightning.seed_everything(0)
    data = TokenData(str(tokens), batch_size=8, mixture={str(args.run / "tokens"): 0.5}, seed=1)
    training = FusionLMTraining(
        LMSettings(
            tokenizer=str(tokens),
            init_from=str(model),
            lr=3e-3,
            muon_lr=0.015,
            weight_decay=0.05,
            warmup_steps=100,
            max_steps=STEPS,
            decay_fraction=0.7,
            condition_dropout=0.1,
        )
    )
    options = {"validate_every": 700, "checkpoint_seconds": 120, "log_every": 50, "tensorboard": False}
    print(fit(training, data, args.out / "run", **options))


if __name__ == "__main__":
    main()
