"""Models of transformers that are no language models, small and with random weights: a config for each class.

Two layers 32 wide, where the class allows it. ``model_of(name)`` makes one; ``MODELS`` are all of them, by the class's
name, with what its config takes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_TEXT = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
}
_IMAGE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
}
_SOUND = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16, 16),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 20,
}
BACKBONE = {
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}
_DETECTS = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_queries": 6,
    "num_labels": 5,
}
_TOWERS = {
    "text_config": {**_TEXT, "max_position_embeddings": 16, "eos_token_id": 2, "bos_token_id": 3},
    "vision_config": {key: value for key, value in _IMAGE.items() if key != "num_labels"},
    "projection_dim": 24,
}

MODELS: dict[str, tuple[str, Mapping[str, Any]]] = {  # a class, the type of its config, and what that takes
    "BertModel": ("bert", {**_TEXT}),
    "BertForMaskedLM": ("bert", {**_TEXT}),
    "BertForMultipleChoice": ("bert", {**_TEXT}),
    "RobertaForSequenceClassification": ("roberta", {**_TEXT, "num_labels": 3}),
    "DistilBertForTokenClassification": (
        "distilbert",
        {"vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 40},
    ),
    "ModernBertForMaskedLM": (
        "modernbert",
        {**_TEXT, "local_attention": 8, "global_attn_every_n_layers": 2, "pad_token_id": 0, "cls_token_id": 1,
         "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "DebertaV2ForSequenceClassification": (
        "deberta-v2",
        {**_TEXT, "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"],
         "norm_rel_ebd": "layer_norm", "share_att_key": True, "type_vocab_size": 0},
    ),
    "MPNetForQuestionAnswering": ("mpnet", {**_TEXT}),
    "XLMRobertaModel": ("xlm-roberta", {**_TEXT}),
    "ElectraForSequenceClassification": ("electra", {**_TEXT, "embedding_size": 16}),
    "ViTForImageClassification": ("vit", _IMAGE),
    "DeiTForImageClassification": ("deit", _IMAGE),
    "SwinForImageClassification": (
        "swin",
        {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 1], "num_heads": [2, 2], "window_size": 4,
         "num_labels": 5},
    ),
    "ConvNextForImageClassification": (
        "convnext",
        {"image_size": 32, "num_stages": 2, "hidden_sizes": [16, 32], "depths": [1, 1], "num_labels": 5},
    ),
    "ResNetForImageClassification": (
        "resnet",
        {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic", "num_labels": 5},
    ),
    "MobileNetV2ForImageClassification": (
        "mobilenet_v2",
        {"image_size": 32, "depth_multiplier": 0.25, "num_labels": 5},
    ),
    "MobileViTForImageClassification": (
        "mobilevit",
        {"image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 32],
         "num_attention_heads": 4, "num_labels": 5},
    ),
    "Dinov2Model": ("dinov2", {**_IMAGE, "mlp_ratio": 2}),
    "BeitForImageClassification": ("beit", {**_IMAGE, "use_relative_position_bias": True}),
    "SegformerForSemanticSegmentation": (
        "segformer",
        {"image_size": 64, "num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [16, 32],
         "patch_sizes": [7, 3], "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2],
         "decoder_hidden_size": 16, "num_labels": 5},
    ),
    "YolosForObjectDetection": ("yolos", {**_IMAGE, "image_size": [32, 48], "num_detection_tokens": 4}),
    "DetrForObjectDetection": ("detr", {**_DETECTS, "backbone_config": {"model_type": "resnet", **BACKBONE}}),
    "RTDetrForObjectDetection": (
        "rt_detr",
        {**_DETECTS, "backbone_config": {"model_type": "rt_detr_resnet", **BACKBONE}, "encoder_hidden_dim": 32,
         "encoder_in_channels": [8, 16, 16], "decoder_in_channels": [32, 32, 32], "feat_strides": [8, 16, 32],
         "num_denoising": 0, "image_size": 64, "anchor_image_size": None, "hidden_expansion": 0.5},
    ),
    "DPTForDepthEstimation": (
        "dpt",
        {**_IMAGE, "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 8, 16, 16],
         "fusion_hidden_size": 16, "reassemble_factors": [4, 2, 1, 0.5], "is_hybrid": False, "backbone_config": None},
    ),
    "DepthAnythingForDepthEstimation": (
        "depth_anything",
        {"backbone_config": {"model_type": "dinov2", **_IMAGE, "num_hidden_layers": 4, "mlp_ratio": 2,
                             "out_indices": [1, 2, 3, 4], "reshape_hidden_states": False, "apply_layernorm": True},
         "patch_size": 8, "reassemble_hidden_size": 32, "neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 16,
         "head_hidden_size": 8},
    ),
    "CLIPModel": ("clip", _TOWERS),
    "SiglipModel": ("siglip", _TOWERS),
    "Wav2Vec2ForCTC": ("wav2vec2", _SOUND),
    "HubertForSequenceClassification": ("hubert", {**_SOUND, "num_labels": 5, "classifier_proj_size": 16}),
    "WavLMForAudioFrameClassification": (
        "wavlm",
        {**_SOUND, "num_labels": 5, "num_buckets": 16, "max_bucket_distance": 24},
    ),
    "ASTForAudioClassification": (
        "audio-spectrogram-transformer",
        {**_IMAGE, "max_length": 48, "num_mel_bins": 16, "patch_size": 8, "frequency_stride": 8, "time_stride": 8},
    ),
}  # fmt: skip


def config_of(name: str, **more: Any) -> Any:
    """The small config of the class called ``name``."""
    import transformers

    model_type, values = MODELS[name]
    return transformers.AutoConfig.for_model(model_type, **{**values, **more})


def model_of(name: str, **more: Any) -> Any:
    """The class called ``name`` with random weights that are none of an initialization's zeros and ones."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, name)(config_of(name, **more)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for called, buffer in model.named_buffers():
            if called.endswith("running_var"):
                buffer.uniform_(0.5, 2)
            elif called.endswith("running_mean"):
                buffer.normal_()
    return model


def saved(name: str, folder: Path, **more: Any) -> Path:
    """A checkpoint of ``model_of(name)`` in ``folder``."""
    model_of(name, **more).save_pretrained(folder)
    return folder
