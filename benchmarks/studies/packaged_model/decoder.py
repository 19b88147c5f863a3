r"""The third part of the packaged model's training: a larger decoder for the existing codes.

    earlyfusion demo --budget long --out runs/long
    python benchmarks/studies/packaged_model/continue_training.py --run runs/long --out runs/long-more
    python benchmarks/studies/packaged_model/decoder.py --run runs/long \
        --model runs/long-more/run/model --out runs/decoder

Encoder and codebook do not change, so all codes that the transformer has learned stay valid. The decoder is
initialized again, five times as large, and trained on the long budget's images with a higher weight of the
text-aware loss. OUT/model is then the image tokenizer of pretrained/openmoji-words. Takes about 40 minutes on
one core.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from earlyfusion.train.loop.process import tune_malloc

tune_malloc()  # as the training commands do, before torch allocates anything

import lightning  # noqa: E402
import torch  # noqa: E402

from earlyfusion.tokenizers.image import ImageTokenizer  # noqa: E402
from earlyfusion.train.image.data import ImageData  # noqa: E402
from earlyfusion.train.image.module import ImageTokenizerTraining  # noqa: E402
from earlyfusion.train.image.settings import ImageTokenizerSettings  # noqa: E402
from earlyfusion.train.loop.fit import fit  # noqa: E402

STEPS = 12_000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of `demo --budget long`")
    parser.add_argument("--model", type=Path, required=True, help="model folder with the image tokenizer")
    parser.add_argument("--out", type=Path, required=True, help="run folder to write")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    before = args.model / "tokenizer" / "image"
    config = replace(ImageTokenizer.load(before).config, decoder_channels=(128, 192), decoder_res_blocks=2)
    lightning.seed_everything(0)
    training = ImageTokenizerTraining(
        ImageTokenizerSettings(
            config=config,
            lr=3e-3,
            warmup_steps=100,
            max_steps=STEPS,
            decay_fraction=0.6,
            chroma_weight=3.0,
            text_weight=3.0,
            init_from=str(before),
            trained_part="decoder",
        )
    )
    images = args.run / "data" / "images"
    data = ImageData(
        train=str(images / "train"),
        validation=str(images / "validation"),
        factor=config.factor,
        batch_pixels=16_384,
        seed=1,
    )
    options = {"validate_every": 3_000, "checkpoint_seconds": 60, "log_every": 50, "tensorboard": False}
    print(fit(training, data, args.out, seed=0, **options))


if __name__ == "__main__":
    main()
