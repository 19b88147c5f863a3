"""The section of importing and exporting Chameleon."""

import json
from pathlib import Path
from typing import Any

import golden_adapter as ef
import golden_material as material
import numpy as np
import torch
from golden_documents import layout
from golden_parts import Parts, files_of, run_main, tensors_of


def chameleon() -> Parts:
    """Import random models in the formats of transformers and Meta, and export our own."""
    names = ("chameleon", "chameleon words", "chameleon logits", "chameleon weights", "chameleon files")
    parts: Parts = {name: {} for name in names}
    printed = parts["chameleon words"]
    write_chameleon(Path("hf"))
    printed["import"] = run_main("import", "chameleon", "hf", "--out", "imported")
    _imported(parts, "imported", Path("imported"))
    write_vqgan(Path("imported"), Path("vqgan.ckpt"))
    printed["import, with a decoder"] = run_main(
        "import", "chameleon", "hf", "--out", "whole", "--vqgan", "vqgan.ckpt", "--preprocessing", "hf"
    )
    _imported(parts, "whole", Path("whole"))
    write_meta(Path("meta"), ef.load_model("imported").lm.config.vocab_size)
    (Path("meta") / "tokenizer" / "vqgan.ckpt").write_bytes(Path("vqgan.ckpt").read_bytes())
    printed["import of Meta's"] = run_main("import", "chameleon", "meta", "--out", "imported-meta")
    _imported(parts, "imported-meta", Path("imported-meta"))
    save_chameleon_shape(Path("own"))
    for name, folder in (("exported", "own"), ("exported again", "whole")):
        printed[name] = run_main("export", "chameleon", folder, "--out", name)
        for file in sorted(Path(name).glob("*.safetensors")):
            for tensor, values in tensors_of(file).items():
                parts["chameleon weights"][f"{name}/{file.name}/{tensor}"] = values
        parts["chameleon files"][name] = files_of(Path(name))
    printed["import of what was exported"] = run_main("import", "chameleon", "exported", "--out", "back")
    _imported(parts, "back", Path("back"))
    printed["info"] = run_main("info", "back")
    return parts


def _imported(parts: Parts, name: str, folder: Path) -> None:
    model = ef.load_model(folder)
    side = 32 if ef.image_facts(model.tokenizer.vocab)["fixed_grid"] == (8, 8) else 512
    prompts: list[list[Any]] = [["A red apple."], ["the cat sees"], ["naïve 猫 🙂 <s>"]]
    if side == 32:
        prompts += [["A", material.drawing(n, (32 + n, 32), "RGB"), " and"] for n in range(4)]
    with torch.no_grad():
        for number, prompt in enumerate(prompts):
            tokens = ef.encode(model.tokenizer, prompt, eos=False)
            parts["chameleon"][f"{name}/tokens {number}"] = tokens.tolist()
            parts["chameleon logits"][f"{name}/{number}"] = (
                ef.logits(model.lm, tokens[None])[0].float().numpy()
            )
    parts["chameleon"][f"{name}/layout"] = layout(model.tokenizer.vocab)
    options = {"max_new_tokens": 20, "max_images": 0, "seed": 1}
    encoded = [ef.encode(model.tokenizer, prompt, eos=False) for prompt in prompts]
    for number, row in enumerate(ef.generate(model.lm, model.tokenizer.vocab, encoded, **options)):
        parts["chameleon logits"][f"{name}/log-likelihood {number}"] = np.array(row.pop("log_likelihood"))
        parts["chameleon"][f"{name}/written {number}"] = row
    for file in ("model.safetensors", "tokenizer/image/model.safetensors"):
        for tensor, values in tensors_of(folder / file).items():
            parts["chameleon weights"][f"{name}/{file}/{tensor}"] = values
    parts["chameleon files"][name] = files_of(folder)


CODES, SIDE = 8, 32


def bpe() -> dict[str, Any]:
    """A byte-level BPE with Chameleon's special tokens, codes and spare tokens in its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", *map(ef.chameleon_code_name, range(CODES))]
    special += ["<eoss>", "<racm3:break>", "<reserved08706>", "<image>"]
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learner.train_from_iterator([*material.SENTENCES, *material.ODD] * 5, trainer)
    return json.loads(learner.to_str())


def write_chameleon(folder: Path) -> None:
    """A random model of transformers, in several shards."""
    import transformers

    text = bpe()
    ids = {**text["model"]["vocab"]}
    vq = {"embed_dim": 4, "num_embeddings": CODES, "base_channels": 32, "latent_channels": 4}
    torch.manual_seed(0)
    model: Any = transformers.ChameleonForConditionalGeneration(
        transformers.ChameleonConfig(
            vocab_size=len(ids),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=160,
            swin_norm=True,
            vocabulary_map=ids,
            bos_token_id=0,
            pad_token_id=1,
            eos_token_id=2,
            vq_config={**vq, "resolution": SIDE, "channel_multiplier": [1, 1, 1], "num_res_blocks": 1},
        )  # fmt: skip
    ).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "vqmodel" not in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder, max_shard_size="60KB")
    (folder / "tokenizer.json").write_text(json.dumps(text))


def write_vqgan(model: Path, path: Path) -> None:
    """A checkpoint of the model's image tokenizer with a decoder, as taming writes one."""
    mine = ef.ImageTokenizer.load(model / "tokenizer" / "image")
    torch.manual_seed(1)
    whole = ef.ImageTokenizer(ef.ImageConfig(**{**vars(mine.config), "decoder": True}))
    material.fill(whole)
    whole.load_state_dict(mine.state_dict(), strict=False)
    state = {n: t for n, t in whole.state_dict().items() if not n.startswith("quantizer.")}
    torch.save({"state_dict": {**state, "quantize.embedding.weight": whole.codebook}}, path)


def write_meta(folder: Path, size: int) -> None:
    """A random checkpoint in Meta's format: two shards in bfloat16."""
    target, S = folder / "models" / "7b", 2
    target.mkdir(parents=True)
    V, C, H, Hkv, D, F, layers = size + size % 2, 32, 4, 2, 8, 88, 2
    params = {
        "dim": C,
        "n_layers": layers,
        "n_heads": H,
        "n_kv_heads": Hkv,
        "multiple_of": 8,
        "norm_eps": 1e-5,
    }
    params |= {"rope_theta": 10000.0, "swin_norm": True}
    (target / "params.json").write_text(json.dumps({"model": params, "model_parallel_size": S}))
    shapes: dict[str, tuple[int, ...]] = {
        "tok_embeddings.weight": (V, C // S),
        "output.weight": (V // S, C),
        "norm.weight": (C,),
    }
    for n in range(layers):
        attention, ffn = f"layers.{n}.attention.", f"layers.{n}.feed_forward."
        shapes |= {f"layers.{n}.attention_norm.weight": (C,), f"layers.{n}.ffn_norm.weight": (C,)}
        shapes |= {f"{attention}wq.weight": (H * D // S, C), f"{attention}wk.weight": (Hkv * D // S, C)}
        shapes |= {f"{attention}wv.weight": (Hkv * D // S, C), f"{attention}wo.weight": (C, H * D // S)}
        shapes |= {
            f"{ffn}w1.weight": (F // S, C),
            f"{ffn}w2.weight": (C, F // S),
            f"{ffn}w3.weight": (F // S, C),
        }
        for x in "qk":
            shapes |= {f"{attention}{x}_normalization.{kind}": (D,) for kind in ("weight", "bias")}
    generator = torch.Generator().manual_seed(7)
    shared = {
        name: 1 + 0.2 * torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
        if name == "norm.weight" or name.endswith("_norm.weight")
    }
    for number in range(S):
        own = {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        tensors = {name: tensor.bfloat16() for name, tensor in {**own, **shared}.items()}
        torch.save(tensors, target / f"consolidated.{number:02}.pth")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "text_tokenizer.json").write_text(json.dumps(bpe()))


def save_chameleon_shape(folder: Path) -> None:
    """A model of ours that fits Chameleon's format."""
    config = ef.ImageConfig(
        architecture="vqgan",
        stem=1,
        channels=(32, 32, 64),
        res_blocks=1,
        norm="group",
        z_channels=8,
        quantizer="vq",
        codebook_size=16,
        codebook_dim=8,
    )
    torch.manual_seed(3)
    images = ef.ImageTokenizer(config).eval()
    ef.initialize_codebook(images, torch.rand(4, 3, SIDE, SIDE) * 2 - 1)
    text = material.text_tokenizer()
    vocab = ef.Vocab.build(text=text, codebook_size=16, max_grid=None, fixed_grid=(8, 8))
    lm = material.network_of(vocab, context_length=160, n_kv_heads=2)
    ef.save_model(folder, lm, ef.document_tokenizer(text, images, vocab))
