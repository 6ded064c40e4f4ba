"""Models of transformers 5, exported by torch's dynamo exporter: without a cache, as people export
encoders, vision and sound models by hand."""

import torch
import transformers as tr

from entry import Entry, Inputs
from exporting import export

VOCABULARY = 1000
TEXT = dict(
    vocab_size=VOCABULARY,
    hidden_size=192,
    num_hidden_layers=3,
    num_attention_heads=6,
    intermediate_size=512,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
GROUPED = TEXT | dict(num_key_value_heads=2, max_position_embeddings=512)
IMAGE = dict(
    hidden_size=192,
    num_hidden_layers=3,
    num_attention_heads=6,
    intermediate_size=512,
    image_size=64,
    patch_size=8,
)
SOUND = dict(
    hidden_size=192,
    num_hidden_layers=3,
    num_attention_heads=6,
    intermediate_size=512,
    conv_dim=(64,) * 7,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
    vocab_size=32,
)


class Only(torch.nn.Module):
    """A model with named inputs, and the named outputs as a tuple."""

    def __init__(self, model, inputs, outputs, options):
        super().__init__()
        self.model, self.inputs, self.outputs, self.options = model, inputs, outputs, options

    def forward(self, first, second=None):
        values = dict(zip(self.inputs, (first, second)))
        answer = self.model(**values, **self.options)
        return tuple(answer[name] for name in self.outputs)


def entry(name, build, example, outputs, open_dims=None, opset=None, sizes=None, options=None):
    """`example` makes the inputs of the export, by name."""

    def make(folder):
        torch.manual_seed(0)
        inputs = example()
        model = Only(build().eval(), list(inputs), outputs, options or {})
        export(
            model,
            tuple(inputs.values()),
            folder / "model.onnx",
            opset=opset,
            names=list(inputs),
            outputs=[f"out_{output}" for output in outputs],
            open_dims=open_dims,
        )

    return Entry(f"hf5_{name}", make, Inputs(sizes or {}, {}, VOCABULARY))


def tokens():
    return {
        "input_ids": torch.randint(3, VOCABULARY, (2, 16)),
        "attention_mask": torch.ones(2, 16, dtype=torch.int64),
    }


def ids():
    return {"input_ids": torch.randint(3, VOCABULARY, (2, 16))}


def pixels(size=64):
    return lambda: {"pixel_values": torch.randn(2, 3, size, size)}


BATCH = {"pixel_values": {0: "batch"}}
TEXTS = {
    "input_ids": {0: "batch", 1: "sequence"},
    "attention_mask": {0: "batch", 1: "sequence"},
}
NO_CACHE = {"use_cache": False}


def text(name, model, config, opset=None, outputs=("last_hidden_state",), **changes):
    build = lambda: getattr(tr, model)(getattr(tr, config)(**(TEXT | changes)))
    return entry(name, build, tokens, outputs, TEXTS, opset)


def decoder(name, model, config, sizes=GROUPED, opset=None, example=tokens, **changes):
    build = lambda: getattr(tr, model)(getattr(tr, config)(**(sizes | changes)))
    # The loop over tokens of Mamba, which has no mask, is exported for one length.
    dims = TEXTS if example is tokens else None
    return entry(name, build, example, ["logits"], dims, opset, options=NO_CACHE)


def image(name, model, config, outputs=("logits",), size=64, **changes):
    build = lambda: getattr(tr, model)(getattr(tr, config)(**changes))
    return entry(name, build, pixels(size), outputs, BATCH)


def sound(name, model, config, outputs):
    build = lambda: getattr(tr, model)(getattr(tr, config)(**SOUND))
    example = lambda: {"input_values": torch.randn(1, 8000)}
    return entry(name, build, example, outputs)


def depth_anything():
    backbone = tr.Dinov2Config(
        **(IMAGE | dict(num_hidden_layers=4, mlp_ratio=2)),
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    return tr.DepthAnythingForDepthEstimation(
        tr.DepthAnythingConfig(
            backbone_config=backbone,
            reassemble_hidden_size=192,
            patch_size=8,
            neck_hidden_sizes=[24, 48, 96, 96],
            fusion_hidden_size=48,
        )
    )


def series():
    config = tr.PatchTSTConfig(
        num_input_channels=3,
        context_length=96,
        prediction_length=24,
        patch_length=12,
        patch_stride=12,
        d_model=96,
        num_hidden_layers=3,
        num_attention_heads=6,
        ffn_dim=192,
    )
    return tr.PatchTSTForPrediction(config)


def whisper_encoder():
    config = tr.WhisperConfig(
        vocab_size=VOCABULARY,
        d_model=192,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=512,
        decoder_ffn_dim=512,
        num_mel_bins=40,
        max_source_positions=200,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return tr.WhisperModel(config).get_encoder()


ENTRIES = [
    text("minilm", "BertModel", "BertConfig"),
    text("minilm_o20", "BertModel", "BertConfig", opset=20),
    text("modernbert_o23", "ModernBertModel", "ModernBertConfig", opset=23, local_attention=16,
         cls_token_id=1, sep_token_id=2, global_attn_every_n_layers=2),
    text("roberta_cls", "RobertaForSequenceClassification", "RobertaConfig", outputs=["logits"]),
    text("distilbert", "DistilBertModel", "DistilBertConfig", dim=192, n_layers=3, n_heads=6),
    text("xlmr", "XLMRobertaModel", "XLMRobertaConfig"),
    text("electra", "ElectraModel", "ElectraConfig", embedding_size=64),
    text("albert", "AlbertModel", "AlbertConfig", embedding_size=64),
    text("deberta_v2", "DebertaV2Model", "DebertaV2Config", pos_att_type=["c2p", "p2c"],
         relative_attention=True, position_buckets=32),
    decoder("qwen3_nocache", "Qwen3ForCausalLM", "Qwen3Config", head_dim=32),
    decoder("llama_nocache", "LlamaForCausalLM", "LlamaConfig"),
    decoder("gemma3_nocache", "Gemma3ForCausalLM", "Gemma3TextConfig", head_dim=32, sliding_window=16,
            layer_types=["sliding_attention", "sliding_attention", "full_attention"]),
    decoder("gpt2_nocache", "GPT2LMHeadModel", "GPT2Config", dict(
        vocab_size=VOCABULARY, n_embd=192, n_layer=3, n_head=6, n_positions=512)),
    decoder("mistral_o23", "MistralForCausalLM", "MistralConfig", opset=23, head_dim=32),
    decoder("mamba", "MambaForCausalLM", "MambaConfig", dict(
        vocab_size=VOCABULARY, hidden_size=128, num_hidden_layers=2, state_size=8), example=ids),
    image("vit", "ViTForImageClassification", "ViTConfig", **IMAGE),
    image("clip_vision", "CLIPVisionModel", "CLIPVisionConfig", ("last_hidden_state",), **IMAGE),
    image("siglip2_vision", "SiglipVisionModel", "SiglipVisionConfig", ("last_hidden_state",), **IMAGE),
    image("dinov2", "Dinov2Model", "Dinov2Config", ("last_hidden_state",), **(IMAGE | dict(mlp_ratio=2))),
    image("swin", "SwinForImageClassification", "SwinConfig", image_size=64, embed_dim=48,
          depths=[2, 2], num_heads=[2, 4], window_size=4),
    image("convnextv2", "ConvNextV2ForImageClassification", "ConvNextV2Config", depths=[1, 1, 2, 1],
          hidden_sizes=[32, 64, 128, 192]),
    image("segformer", "SegformerForSemanticSegmentation", "SegformerConfig", size=128,
          hidden_sizes=[32, 64, 160, 256], depths=[1, 1, 1, 1], decoder_hidden_size=96),
    image("resnet", "ResNetForImageClassification", "ResNetConfig", depths=[1, 1, 1, 1],
          hidden_sizes=[64, 128, 192, 256], embedding_size=32),
    entry("depth_anything", depth_anything, pixels(64), ["predicted_depth"], BATCH),
    sound("wav2vec2", "Wav2Vec2ForCTC", "Wav2Vec2Config", ["logits"]),
    sound("hubert", "HubertModel", "HubertConfig", ["last_hidden_state"]),
    entry("whisper_encoder", whisper_encoder, lambda: {"input_features": torch.randn(1, 40, 400)},
          ["last_hidden_state"]),
    entry("patchtst", series, lambda: {"past_values": torch.randn(2, 96, 3)}, ["prediction_outputs"],
          {"past_values": {0: "batch"}}),
    entry("t5_encoder", lambda: tr.T5EncoderModel(tr.T5Config(
        vocab_size=VOCABULARY, d_model=192, d_kv=32, d_ff=512, num_layers=2, num_heads=6)),
        tokens, ["last_hidden_state"], TEXTS),
]
