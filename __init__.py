"""Early-fusion multimodal models: images and text become one token stream, learned and written by one transformer.

Folders follow the stream: `tokenizers` (image VQ-VAE, text BPE, shared vocabulary), `fusion_lm` (the
transformer), `train` (Lightning, the command line), `eval` (measurements). Nothing is imported here.
"""
