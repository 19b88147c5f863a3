"""The help of the commands whose options Lightning reads."""

STAGES = ("fit", "validate", "test", "predict")

"""What each of them can do; the recognizer only the first two."""

LIGHTNING = {
    "image-tokenizer": """\
usage: earlyfusion image-tokenizer {fit,validate,test,predict} --config FILE [options]
       earlyfusion image-tokenizer {encode,decode,import} ...

Train the image tokenizer (a VQ-VAE), or run a trained one over images. Of these, a Lightning
CLI, every field of a config file is an option too. Configs to begin with: train/configs/.

  fit         train; writes checkpoints, logs, pictures and the tokenizer folder
  validate    reconstruct the validation images and print the errors
  test        the same as validate, logged as test
  predict     the validation images -> codes and reconstructions, as files

With a trained one, and without Lightning (`earlyfusion image-tokenizer encode --help`):

  encode      a folder of pictures -> a small file of codes for each
  decode      and back
  import      a VQGAN checkpoint in taming's layout -> a tokenizer folder

examples:
  earlyfusion image-tokenizer fit --config image_tokenizer.yaml --data.train=my/images
  earlyfusion image-tokenizer fit --config image_tokenizer.yaml --model.config.codebook_size=4096
  earlyfusion image-tokenizer fit --config image_tokenizer.yaml --ckpt_path=last   # go on

`earlyfusion image-tokenizer fit --help` lists the options (it loads Lightning: some seconds).""",
    "recognizer": """\
usage: earlyfusion recognizer {fit,validate} --config FILE [options]

Train the recognizer whose features measure how alike two images of text are (the text-aware
loss of the image tokenizer), on the images of `earlyfusion text-images`. A Lightning CLI:
every field of a config file is an option too. Configs to begin with: train/configs/.

  fit         train; writes checkpoints, logs and the recognizer folder
  validate    read the validation images and print the errors

examples:
  earlyfusion text-images --out runs/text-images
  earlyfusion recognizer fit --config recognizer.yaml --data.train=runs/text-images

`earlyfusion recognizer fit --help` lists the options (it loads Lightning: some seconds).""",
    "lm": """\
usage: earlyfusion lm {fit,validate,test,predict} --config FILE [options]

Train the transformer on the windows of `earlyfusion prepare`, or measure a trained one. A
Lightning CLI: every field of a config file is an option too. Configs to begin with:
train/configs/.

  fit         train; writes checkpoints, logs, samples and the model folder
  validate    print the losses on the validation windows, by modality
  test        the same as validate, logged as test
  predict     losses of every token of the validation windows, as files

examples:
  earlyfusion lm fit --config lm.yaml --data.path=runs/tokens
  earlyfusion lm fit --config lm.yaml --trainer.max_steps=20000
  earlyfusion lm fit --config lm.yaml --ckpt_path=last                             # go on

`earlyfusion lm fit --help` lists the options (it loads Lightning: some seconds).""",
}
"""Commands whose options Lightning reads, with their help."""


def stages(command: str) -> tuple[str, ...]:
    """The stages of a command of `LIGHTNING`."""
    return STAGES[:2] if command == "recognizer" else STAGES
