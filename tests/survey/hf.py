"""Models of transformers 4, exported by optimum: the configuration classes with small sizes, and
random weights. Decoders are exported with their cache."""

import torch
import transformers as tr
from optimum.exporters.onnx import onnx_export_from_model

from entry import Entry, Inputs

VOCABULARY = 1000
# Sizes under the names that most configurations use.
TEXT = dict(
    vocab_size=VOCABULARY,
    hidden_size=192,
    num_hidden_layers=3,
    num_attention_heads=6,
    intermediate_size=512,
)
GROUPED = TEXT | dict(num_key_value_heads=2, max_position_embeddings=512)
MARIAN = dict(
    vocab_size=VOCABULARY,
    d_model=192,
    encoder_layers=2,
    decoder_layers=2,
    encoder_attention_heads=6,
    decoder_attention_heads=6,
    encoder_ffn_dim=512,
    decoder_ffn_dim=512,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    decoder_start_token_id=1,
)
IMAGE = dict(
    hidden_size=192,
    num_hidden_layers=3,
    num_attention_heads=6,
    intermediate_size=512,
    image_size=64,
    patch_size=8,
)
ENDS = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)
GENERATE = "text-generation-with-past"
TRANSLATE = "text2text-generation-with-past"
SPEECH = "automatic-speech-recognition-with-past"
# One second of sound; the second shape is longer.
SOUND = {"sequence_length": (8000, 9600), "audio_sequence_length": (8000, 9600)}
PIXELS = {"height": (64, 96), "width": (64, 80), "num_channels": 3}
FIXED_PIXELS = {"height": 64, "width": 64, "num_channels": 3}
BOXES = {"bbox": lambda shape, random: boxes(shape, random)}


def boxes(shape, random):
    low = random.integers(0, 400, (*shape[:-1], 2))
    size = random.integers(1, 400, (*shape[:-1], 2))
    import numpy as np

    return np.concatenate([low, low + size], axis=-1)


def export(build, task, **options):
    """A function that exports the model of `build` into a folder."""

    def make(folder):
        torch.manual_seed(0)
        model = build().eval()
        model.config.use_cache = True
        if getattr(model, "generation_config", None) is not None:
            model.generation_config.use_cache = True
        onnx_export_from_model(model, folder, task=task, do_validation=False, **options)

    return make


def entry(name, build, task, sizes=None, values=None, vocabulary=VOCABULARY, notes=None, **options):
    hints = Inputs(sizes or {}, values or {}, vocabulary)
    return Entry(f"hf_{name}", export(build, task, **options), hints, notes=notes or {})


def bert(name, model, config, task="feature-extraction", sizes=None, values=None, **changes):
    # Labels of classifiers and answers of questions are in the configuration's defaults.
    build = lambda: getattr(tr, model)(getattr(tr, config)(**(TEXT | changes)))
    return entry(name, build, task, sizes, values)


def decoder(name, model, config, **changes):
    build = lambda: getattr(tr, model)(getattr(tr, config)(**changes))
    return entry(name, build, GENERATE, monolith=False)


def vision(name, model, config, task, sizes=FIXED_PIXELS, **changes):
    build = lambda: getattr(tr, model)(getattr(tr, config)(**changes))
    return entry(name, build, task, sizes)


def clip():
    text = TEXT | dict(max_position_embeddings=77, projection_dim=96, **ENDS)
    config = tr.CLIPConfig(text_config=text, vision_config=IMAGE | dict(projection_dim=96))
    return tr.CLIPModel(config)


def detr(kind=tr.DetrForObjectDetection, config=tr.DetrConfig):
    backbone = tr.ResNetConfig(
        embedding_size=32,
        hidden_sizes=[32, 64, 96, 128],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    return kind(
        config(
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone_config=backbone,
            backbone=None,
            d_model=96,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=6,
            decoder_attention_heads=6,
            encoder_ffn_dim=256,
            decoder_ffn_dim=256,
            num_queries=20,
        )
    )


def rt_detr():
    backbone = tr.RTDetrResNetConfig(
        embedding_size=32,
        hidden_sizes=[32, 64, 96, 128],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = tr.RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[64, 96, 128],
        d_model=64,
        encoder_hidden_dim=64,
        encoder_ffn_dim=128,
        encoder_attention_heads=4,
        decoder_in_channels=[64, 64, 64],
        decoder_ffn_dim=128,
        decoder_layers=2,
        decoder_attention_heads=4,
        num_queries=30,
        anchor_image_size=None,
        num_denoising=0,
    )
    return tr.RTDetrForObjectDetection(config)


def sam():
    config = tr.SamConfig(
        vision_config=dict(
            hidden_size=96,
            num_hidden_layers=3,
            num_attention_heads=6,
            mlp_dim=256,
            image_size=128,
            patch_size=16,
            window_size=4,
            global_attn_indexes=[1],
            output_channels=256,
        ),
        prompt_encoder_config=dict(hidden_size=256, image_size=128, patch_size=16, mask_input_channels=8),
        mask_decoder_config=dict(
            hidden_size=256, mlp_dim=256, num_attention_heads=4, iou_head_hidden_dim=64
        ),
    )
    return tr.SamModel(config)


def trocr():
    encoder = tr.ViTModel(tr.ViTConfig(**IMAGE))
    decoder = tr.TrOCRForCausalLM(
        tr.TrOCRConfig(
            vocab_size=VOCABULARY,
            d_model=192,
            decoder_layers=2,
            decoder_attention_heads=6,
            decoder_ffn_dim=512,
            cross_attention_hidden_size=192,
            **ENDS,
        )
    )
    model = tr.VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)
    model.config.decoder_start_token_id = 1
    model.config.pad_token_id = 0
    return model


def vits():
    # Without noise the answer does not depend on how random numbers are drawn.
    config = tr.VitsConfig(
        vocab_size=40,
        hidden_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=192,
        flow_size=96,
        spectrogram_bins=129,
        upsample_initial_channel=128,
        upsample_rates=[8, 8],
        upsample_kernel_sizes=[16, 16],
        prior_encoder_num_flows=2,
        posterior_encoder_num_wavenet_layers=2,
        prior_encoder_num_wavenet_layers=2,
        duration_predictor_num_flows=2,
        noise_scale=0.0,
        noise_scale_duration=0.0,
    )
    return tr.VitsModel(config)


WHISPER = MARIAN | dict(num_mel_bins=40, max_source_positions=1500, max_target_positions=64)
SPEECH_ENCODER = TEXT | dict(
    conv_dim=(64,) * 7,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
    vocab_size=32,
)
GPT2 = dict(vocab_size=VOCABULARY, n_embd=192, n_layer=3, n_head=6, n_positions=512, **ENDS)
PATCHES = dict(
    num_input_channels=3,
    context_length=96,
    prediction_length=24,
    patch_length=12,
    patch_stride=12,
    d_model=96,
)

ENTRIES = [
    bert("minilm_l6", "BertModel", "BertConfig"),
    bert("bert_cls", "BertForSequenceClassification", "BertConfig", "text-classification"),
    bert("distilbert_ner", "DistilBertForTokenClassification", "DistilBertConfig", "token-classification",
         dim=192, n_layers=3, n_heads=6),
    bert("roberta_qa", "RobertaForQuestionAnswering", "RobertaConfig", "question-answering"),
    bert("xlmr_e5", "XLMRobertaModel", "XLMRobertaConfig"),
    bert("camembert_mlm", "CamembertForMaskedLM", "CamembertConfig", "fill-mask"),
    bert("albert", "AlbertModel", "AlbertConfig", embedding_size=64),
    bert("electra", "ElectraModel", "ElectraConfig", embedding_size=64),
    bert("mpnet", "MPNetModel", "MPNetConfig"),
    bert("deberta_cls", "DebertaForSequenceClassification", "DebertaConfig", "text-classification",
         pos_att_type=["c2p", "p2c"], relative_attention=True),
    bert("deberta_v2_cls", "DebertaV2ForSequenceClassification", "DebertaV2Config", "text-classification",
         pos_att_type=["c2p", "p2c"], relative_attention=True, position_buckets=32, conv_kernel_size=3),
    bert("modernbert", "ModernBertModel", "ModernBertConfig", local_attention=16, **ENDS,
         cls_token_id=1, sep_token_id=2, global_attn_every_n_layers=2),
    bert("convbert", "ConvBertModel", "ConvBertConfig", embedding_size=64),
    bert("squeezebert", "SqueezeBertModel", "SqueezeBertConfig", embedding_size=192),
    bert("mobilebert", "MobileBertModel", "MobileBertConfig", intra_bottleneck_size=96,
         true_hidden_size=96, embedding_size=64),
    bert("nystromformer", "NystromformerModel", "NystromformerConfig", num_landmarks=4, segment_means_seq_len=16,
         sizes={"sequence_length": 16}),
    bert("roformer", "RoFormerModel", "RoFormerConfig"),
    bert("esm", "EsmModel", "EsmConfig", pad_token_id=1, mask_token_id=32),
    bert("ibert", "IBertModel", "IBertConfig"),
    bert("rembert", "RemBertModel", "RemBertConfig", input_embedding_size=64),
    bert("layoutlm", "LayoutLMModel", "LayoutLMConfig", values=BOXES),
    bert("lilt", "LiltModel", "LiltConfig", values=BOXES),
    decoder("gpt2", "GPT2LMHeadModel", "GPT2Config", **GPT2),
    decoder("llama_smol", "LlamaForCausalLM", "LlamaConfig", **GROUPED, tie_word_embeddings=True),
    decoder("qwen2", "Qwen2ForCausalLM", "Qwen2Config", **GROUPED, **ENDS),
    decoder("qwen3", "Qwen3ForCausalLM", "Qwen3Config", **GROUPED, **ENDS, head_dim=32),
    decoder("gemma", "GemmaForCausalLM", "GemmaConfig", **GROUPED, head_dim=32, **ENDS),
    decoder("gemma3", "Gemma3ForCausalLM", "Gemma3TextConfig", **GROUPED, head_dim=32, **ENDS,
            sliding_window=16, layer_types=["sliding_attention", "sliding_attention", "full_attention"]),
    decoder("mistral", "MistralForCausalLM", "MistralConfig", **GROUPED, head_dim=32, sliding_window=16),
    decoder("phi", "PhiForCausalLM", "PhiConfig", **TEXT, **ENDS),
    decoder("phi3", "Phi3ForCausalLM", "Phi3Config", **GROUPED, **ENDS),
    decoder("falcon", "FalconForCausalLM", "FalconConfig", vocab_size=VOCABULARY, hidden_size=192,
            num_hidden_layers=3, num_attention_heads=6, **ENDS),
    decoder("bloom", "BloomForCausalLM", "BloomConfig", vocab_size=VOCABULARY, hidden_size=192,
            n_layer=3, n_head=6, **ENDS),
    decoder("opt", "OPTForCausalLM", "OPTConfig", vocab_size=VOCABULARY, hidden_size=192, ffn_dim=512,
            num_hidden_layers=3, num_attention_heads=6, word_embed_proj_dim=192, **ENDS),
    decoder("gpt_neox", "GPTNeoXForCausalLM", "GPTNeoXConfig", **TEXT, **ENDS),
    decoder("gpt_neo", "GPTNeoForCausalLM", "GPTNeoConfig", vocab_size=VOCABULARY, hidden_size=192,
            num_layers=2, num_heads=6, attention_types=[[["global", "local"], 1]], window_size=8, **ENDS),
    decoder("olmo2", "Olmo2ForCausalLM", "Olmo2Config", **GROUPED, **ENDS),
    decoder("smollm3", "SmolLM3ForCausalLM", "SmolLM3Config", **GROUPED, **ENDS),
    decoder("granite", "GraniteForCausalLM", "GraniteConfig", **GROUPED, **ENDS),
    decoder("mpt", "MptForCausalLM", "MptConfig", vocab_size=VOCABULARY, d_model=192, n_heads=6, n_layers=3,
            max_seq_len=512, **ENDS),
    entry("t5_small", lambda: tr.T5ForConditionalGeneration(tr.T5Config(
        vocab_size=VOCABULARY, d_model=192, d_kv=32, d_ff=512, num_layers=2, num_heads=6,
        decoder_start_token_id=0)), TRANSLATE, monolith=False),
    entry("marian", lambda: tr.MarianMTModel(tr.MarianConfig(**MARIAN)), TRANSLATE, monolith=False),
    entry("bart_summary", lambda: tr.BartForConditionalGeneration(tr.BartConfig(**MARIAN)), TRANSLATE,
          monolith=False),
    entry("m2m_100", lambda: tr.M2M100ForConditionalGeneration(tr.M2M100Config(**MARIAN)), TRANSLATE,
          monolith=False),
    entry("whisper_tiny", lambda: tr.WhisperForConditionalGeneration(tr.WhisperConfig(**WHISPER)), SPEECH,
          {"encoder_sequence_length / 2": 1500, "encoder_sequence_length": 1500}, monolith=False),
    entry("moonshine_tiny", lambda: tr.MoonshineForConditionalGeneration(tr.MoonshineConfig(
        vocab_size=VOCABULARY, hidden_size=144, intermediate_size=288, encoder_num_hidden_layers=2,
        decoder_num_hidden_layers=2, encoder_num_attention_heads=4, decoder_num_attention_heads=4)),
        SPEECH, {"input_values:1": (8000, 9600), "attention_mask:1": (8000, 9600)}, monolith=False),
    entry("trocr", trocr, "image-to-text-with-past", FIXED_PIXELS | {"encoder_sequence_length": 65},
          monolith=False),
    entry("vits", vits, "text-to-audio", vocabulary=39,
          notes={"why": "exported without noise, so that answers can be compared"}),
    entry("clip", clip, "zero-shot-image-classification", FIXED_PIXELS | {
        "text_batch_size": 2, "image_batch_size": 1, "sequence_length": (16, 12)}),
    entry("siglip_vision", lambda: tr.SiglipVisionModel(tr.SiglipVisionConfig(**IMAGE)), "feature-extraction",
          FIXED_PIXELS),
    entry("clip_vision", lambda: tr.CLIPVisionModel(tr.CLIPVisionConfig(**IMAGE)), "feature-extraction",
          FIXED_PIXELS),
    entry("wav2vec2_ctc", lambda: tr.Wav2Vec2ForCTC(tr.Wav2Vec2Config(**SPEECH_ENCODER)),
          "automatic-speech-recognition", SOUND),
    entry("hubert", lambda: tr.HubertModel(tr.HubertConfig(**SPEECH_ENCODER)), "feature-extraction", SOUND),
    entry("wavlm", lambda: tr.WavLMModel(tr.WavLMConfig(**SPEECH_ENCODER)), "feature-extraction", SOUND),
    entry("data2vec_audio", lambda: tr.Data2VecAudioModel(tr.Data2VecAudioConfig(**SPEECH_ENCODER)),
          "feature-extraction", SOUND),
    entry("ast_audio", lambda: tr.ASTForAudioClassification(tr.ASTConfig(
        hidden_size=192, num_hidden_layers=3, num_attention_heads=6, intermediate_size=512, max_length=128,
        num_mel_bins=64)), "audio-classification"),
    vision("vit_tiny", "ViTForImageClassification", "ViTConfig", "image-classification", **IMAGE),
    vision("deit", "DeiTForImageClassification", "DeiTConfig", "image-classification", **IMAGE),
    vision("beit", "BeitForImageClassification", "BeitConfig", "image-classification", **IMAGE),
    vision("swin", "SwinForImageClassification", "SwinConfig", "image-classification", image_size=64,
           embed_dim=48, depths=[2, 2], num_heads=[2, 4], window_size=4),
    vision("swin2sr", "Swin2SRForImageSuperResolution", "Swin2SRConfig", "image-to-image",
           {"height": (32, 48), "width": (32, 40), "num_channels": 3}, image_size=32,
           embed_dim=48, depths=[2, 2], num_heads=[4, 4], window_size=4, upscale=2),
    vision("convnext", "ConvNextForImageClassification", "ConvNextConfig", "image-classification", PIXELS,
           depths=[1, 1, 2, 1], hidden_sizes=[32, 64, 128, 192]),
    vision("resnet", "ResNetForImageClassification", "ResNetConfig", "image-classification", PIXELS,
           depths=[1, 1, 1, 1], hidden_sizes=[64, 128, 192, 256], embedding_size=32),
    vision("mobilenet_v2", "MobileNetV2ForImageClassification", "MobileNetV2Config", "image-classification",
           {"height": (96, 128), "width": (96, 128), "num_channels": 3}),
    vision("mobilevit", "MobileViTForImageClassification", "MobileViTConfig", "image-classification",
           {"height": 128, "width": 128, "num_channels": 3}, image_size=128, initializer_range=0.2),
    vision("levit", "LevitForImageClassification", "LevitConfig", "image-classification",
           {"height": 128, "width": 128, "num_channels": 3}, image_size=128),
    vision("poolformer", "PoolFormerForImageClassification", "PoolFormerConfig", "image-classification", PIXELS,
           depths=[1, 1, 2, 1], hidden_sizes=[32, 64, 96, 128]),
    vision("regnet", "RegNetForImageClassification", "RegNetConfig", "image-classification", PIXELS,
           depths=[1, 1, 2, 1], hidden_sizes=[32, 64, 96, 128], groups_width=16),
    vision("segformer", "SegformerForSemanticSegmentation", "SegformerConfig", "semantic-segmentation",
           {"height": (128, 160), "width": (128, 192), "num_channels": 3}, hidden_sizes=[32, 64, 160, 256],
           depths=[1, 1, 1, 1], decoder_hidden_size=96),
    vision("dpt", "DPTForDepthEstimation", "DPTConfig", "depth-estimation", **(IMAGE | dict(num_hidden_layers=4)),
           backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[24, 48, 96, 96], fusion_hidden_size=48,
           is_hybrid=False),
    vision("glpn", "GLPNForDepthEstimation", "GLPNConfig", "depth-estimation",
           {"height": (64, 96), "width": (64, 128), "num_channels": 3},
           hidden_sizes=[32, 64, 160, 256], depths=[1, 1, 1, 1]),
    vision("yolos", "YolosForObjectDetection", "YolosConfig", "object-detection",
           **(IMAGE | dict(image_size=[64, 64], num_detection_tokens=20, use_mid_position_embeddings=False))),
    entry("detr", detr, "object-detection", {"height": (128, 160), "width": (128, 192), "num_channels": 3}),
    entry("rt_detr", rt_detr, "object-detection", {"height": 128, "width": 128, "num_channels": 3}),
    entry("sam", sam, "feature-extraction", {"height": 128, "width": 128, "num_channels": 3,
          "nb_points_per_image": (2, 3), "point_batch_size": 1},
          {"input_points": lambda shape, random: random.uniform(0, 127, shape).astype("float32"),
           "input_labels": lambda shape, random: random.integers(0, 2, shape)}),
    vision("owlvit", "OwlViTForObjectDetection", "OwlViTConfig", "zero-shot-object-detection",
           {"height": 64, "width": 64, "num_channels": 3, "text_batch_size": 2, "image_batch_size": 1, "sequence_length": (16, 12)},
           text_config=TEXT | dict(max_position_embeddings=16), vision_config=IMAGE, projection_dim=192),
    entry("patchtst", lambda: tr.PatchTSTForPrediction(tr.PatchTSTConfig(
        **PATCHES, num_hidden_layers=3, num_attention_heads=6, ffn_dim=192)), "time-series-forecasting",
        {"sequence_length": 96, "num_input_channels": 3}),
    entry("patchtsmixer", lambda: tr.PatchTSMixerForPrediction(tr.PatchTSMixerConfig(**PATCHES, num_layers=3)),
          "time-series-forecasting", {"sequence_length": 96, "num_input_channels": 3}),
]
