"""Early fusion: images and text become one token stream, which one transformer learns and writes back.

Folders follow the stream: `tokenizers` (image VQ-VAE, text BPE, shared vocabulary), `fusion_lm` (the
transformer), `train` (Lightning, the command line), `eval` (measurements). Nothing is imported here.
"""
