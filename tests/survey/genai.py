"""Decoders by onnxruntime-genai's builder, from small random models of transformers."""

import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers as tr
from tokenizers import Tokenizer, models, pre_tokenizers

from entry import Entry, Inputs

VOCABULARY, HEAD = 1000, 32
SIZES = dict(
    vocab_size=VOCABULARY,
    hidden_size=256,
    num_hidden_layers=2,
    num_attention_heads=8,  # of HEAD numbers each
    num_key_value_heads=2,
    intermediate_size=512,
    max_position_embeddings=512,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
FAMILIES = {
    "llama": (tr.LlamaForCausalLM, tr.LlamaConfig, {}),
    "qwen2": (tr.Qwen2ForCausalLM, tr.Qwen2Config, {}),
    "qwen3": (tr.Qwen3ForCausalLM, tr.Qwen3Config, dict(head_dim=HEAD)),
    "mistral": (tr.MistralForCausalLM, tr.MistralConfig, dict(head_dim=HEAD, sliding_window=64)),
    "phi3": (tr.Phi3ForCausalLM, tr.Phi3Config, dict(original_max_position_embeddings=512)),
    "gemma": (tr.GemmaForCausalLM, tr.GemmaConfig, dict(head_dim=HEAD)),
}


def tokenizer(folder):
    words = {f"w{at}": at for at in range(VOCABULARY)}
    model = Tokenizer(models.WordLevel(words, unk_token="w3"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    tr.PreTrainedTokenizerFast(
        tokenizer_object=model, bos_token="w1", eos_token="w2", pad_token="w0", unk_token="w3"
    ).save_pretrained(folder)


def entry(family, precision, **options):
    def make(folder):
        kind, config, changes = FAMILIES[family]
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as work:
            source, cache = pathlib.Path(work, "source"), pathlib.Path(work, "cache")
            output = pathlib.Path(work, "output")
            kind(config(**(SIZES | changes))).save_pretrained(source)
            tokenizer(source)
            command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", source, "-o", output,
                       "-p", precision, "-e", "cpu", "-c", cache]
            if options:
                command += ["--extra_options", *(f"{key}={value}" for key, value in options.items())]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(done.stderr.strip().splitlines()[-1])
            for file in output.iterdir():
                if file.name.startswith("model.onnx"):
                    file.rename(folder / file.name)

    suffix = "_".join([precision, *(f"{key}{value}" for key, value in options.items())])
    return Entry(f"genai_{family}_{suffix}", make, Inputs({"kv_cache_dim": HEAD}, vocabulary=VOCABULARY))


ENTRIES = [
    entry("llama", "fp32"),
    entry("llama", "int4"),
    entry("llama", "int4", use_qdq="true"),
    entry("qwen2", "int4"),
    entry("qwen2", "int8"),
    entry("qwen3", "fp32"),
    entry("qwen3", "int4"),
    entry("mistral", "int4"),
    entry("phi3", "fp32"),
    entry("gemma", "fp32"),
]
