"""Add a modality: the packaged model, which knows text and pictures, learns to write melodies.

    python examples/add_modality.py

A modality is a codec, an entry in CODECS, and tokens behind those that the vocabulary has; grammar, loss and
sampling follow its name. OUT/model is the larger model, OUT/scales.wav is what it writes.
"""

import argparse
import wave
from types import SimpleNamespace

import torch

from earlyfusion import DocumentTokenizer, load_model, sample, save_model
from earlyfusion.tokenizers.modality import CODECS
from earlyfusion.train.lm.resize_vocab import resized
from earlyfusion.train.lm.targets import window_loss

parser = argparse.ArgumentParser(description="teach the packaged model to write melodies")
parser.add_argument("--out", default="runs/examples/tones", help="folder to write (default: %(default)s)")
parser.add_argument("--steps", type=int, default=40, help="steps of training (default: 40)")
args = parser.parse_args()
# 1. The codec: any object with these names. It turns each eighth of a second into its loudest semitone.
RATE, HOP, HERTZ = 8000, 1000, 220 * 2 ** (torch.arange(16) / 12)  # samples per second and per code
WAVES = torch.exp(2j * torch.pi * HERTZ[:, None] * torch.arange(HOP) / RATE)  # (16, HOP)
tones = SimpleNamespace(
    codebook_size=16,
    codes_per_position=1,
    takes=lambda segment: isinstance(segment, bytes),  # 16-bit samples, as in a WAV file
    prepare=lambda sound, layout, whole=False: torch.frombuffer(bytearray(sound), dtype=torch.int16),
    encode=lambda x: (x.unflatten(1, (-1, HOP)) + 0j).matmul(WAVES.mH).abs().argmax(-1),  # -> (B, T)
    decode=lambda codes: 8000 * WAVES.imag[codes].flatten(-2),  # -> (B, T * HOP)
    show=lambda samples: samples.short().numpy().tobytes(),
    save=lambda folder: folder.mkdir(),  # this codec has no weights
)
CODECS["tones"] = lambda folder: tones  # 2. The entry: what reads the codec's folder, tokenizer/tones.
lm, old = load_model()  # 3. The tokens: begin, end, sizes 1 to 8, and sixteen codes.
vocab = old.vocab.extended("tones", codebook_size=16, max_size=8)
tokenizer = DocumentTokenizer(vocab, text=old.text, image=old.codecs["image"], tones=tones)
lm, _ = resized(lm, old, tokenizer)  # old tokens keep their rows
scales = torch.arange(9)[:, None] + torch.arange(8)  # nine melodies of eight tones
documents = [["A scale that rises:", tones.show(tones.decode(scale))] for scale in scales]
documents += [["A scale that falls:", tones.show(tones.decode(scale))] for scale in scales.flip(1)]
tokens = torch.stack([one.tokens for one in tokenizer.encode_many(documents)])  # (18, T)
optimizer = torch.optim.AdamW(lm.train().parameters(), lr=1e-3)
for step in range(args.steps):
    terms = window_loss(lm, {"tokens": tokens, "documents": torch.zeros_like(tokens)}, vocab)
    optimizer.zero_grad()
    terms.cross_entropy.backward()
    optimizer.step()
    print(f"step {step}: {terms.of(terms.by_modality, 'tones'):.2f} nats per tone")
save_model(f"{args.out}/model", lm, tokenizer)
prompts = [["A scale that rises:"], ["A scale that falls:"]]
[[up], [down]] = sample(load_model(f"{args.out}/model"), prompts, then="tones", stop_after="tones")
print("codes:", *(tones.encode(tones.prepare(sound, None)[None])[0].tolist() for sound in (up, down)))
with wave.open(f"{args.out}/scales.wav", "wb") as file:
    file.setparams((1, 2, RATE, 0, "NONE", ""))
    file.writeframes(up + down)
