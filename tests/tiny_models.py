"""Encoders of tiny models with random weights: nothing is downloaded, and loading takes no time."""

import json

import numpy as np

from medretrieval.encoders.open_clip_models import OpenClipEncoder
from medretrieval.encoders.timm_models import TimmEncoder

# open_clip's own models are of 100 MB and more; this one has its format and 100,000 parameters.
TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 1, "layers": 1},
}
# Its text tower takes the tokens of open_clip's tokenizer: 1.7 million parameters.
TINY_READER = TINY_CLIP | {
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
}
OPTIONS = {
    "name": "e", "pretrained": None, "checkpoint": None, "view": "checkpoint", "normalize": False,
    "precision": "fp32", "batch_size": 4, "device": "cpu", "seed": 0, "runtime": "torch", "compile": False,
}  # fmt: skip


def timm_encoder(checkpoint=None, **changes):
    """timm's test_resnet, unless another model is named."""
    own = {"model": "test_resnet", "checkpoint": checkpoint and str(checkpoint)}
    return TimmEncoder(**(OPTIONS | own | changes))


def clip_encoder(checkpoint=None, **changes):
    """The model that open_clip knows as tiny (see `add_clip`), unless another is named."""
    own = {"model": "tiny", "revision": None, "checkpoint": checkpoint and str(checkpoint)}
    return OpenClipEncoder(**(OPTIONS | own | changes))


def images(n, *shape):
    """Noise, the same each time (uint8 [n, *shape], 28 x 28 gray where no shape is given)."""
    return np.random.default_rng(5).integers(0, 256, (n, *(shape or (28, 28)))).astype(np.uint8)


def add_clip(monkeypatch, name="tiny", config=TINY_CLIP):
    """Let open_clip build a model of this configuration by this name."""
    import open_clip.factory

    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)


def write_clip_config(folder, mean=0.5, config=TINY_CLIP):
    """Write the file that open_clip wants beside a checkpoint."""
    content = {"model_cfg": config, "preprocess_cfg": {"mean": [mean] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))


def clip_state(folder):
    """Random weights of the model whose configuration is in a folder."""
    import open_clip

    return open_clip.create_model(f"local-dir:{folder}", load_weights=False).state_dict()


def write_sentence_model(folder, words, context=12, **changes):
    """A BERT of 16 numbers with random weights in the layout of sentence-transformers; returns the folder.

    Args:
        folder: where it goes.
        words: that it knows.
        context: the most tokens it reads.
        changes: file name -> bytes in its place, or None to leave it out.
    """
    import torch
    from safetensors.torch import save
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    known = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(set(words))])}
    tokenizer = Tokenizer(models.WordPiece(known, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.enable_truncation(5)  # as the published file has it: not the length that the model reads
    tokenizer.enable_padding(length=5)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(known), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    steps = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": idx, "name": str(idx), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for idx, (path, kind) in enumerate(steps)
    ]
    files = {
        "config.json": config.to_json_string(use_diff=False).encode(),
        "model.safetensors": save(BertModel(config).state_dict()),
        "modules.json": json.dumps(modules).encode(),
        "sentence_bert_config.json": json.dumps({"max_seq_length": context}).encode(),
        "1_Pooling/config.json": json.dumps(
            {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
        ).encode(),
        "tokenizer.json": tokenizer.to_str().encode(),
    } | changes
    for name, content in files.items():
        if content is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    return folder
