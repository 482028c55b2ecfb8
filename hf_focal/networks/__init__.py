# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Networks of the paper. Importing this package registers those for images with timm, so that `timm.create_model` knows
them, and those for text with the Auto classes of transformers.
"""

from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from .cifar_densenet import CifarDenseNet
from .cifar_resnet import CifarResNet, CifarWideResNet
from .global_pooling_cnn import (
    GlobalPoolingCNNConfig,
    GlobalPoolingCNNForSequenceClassification,
    create_global_pooling_cnn,
)
from .tree_lstm import TreeLSTMConfig, TreeLSTMForSequenceClassification, create_tree_lstm
from .trees import TreeTokenizer


for _config, _model, _tokenizer in (
    (GlobalPoolingCNNConfig, GlobalPoolingCNNForSequenceClassification, PreTrainedTokenizerFast),
    (TreeLSTMConfig, TreeLSTMForSequenceClassification, TreeTokenizer),
):
    AutoConfig.register(_config.model_type, _config)
    AutoModelForSequenceClassification.register(_config, _model)
    AutoTokenizer.register(_config, tokenizer_class=_tokenizer)
    # Pipelines look here, and say that a model is not supported which is missing.
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES[_config.model_type] = _model.__name__

# What a checkpoint needs `import hf_focal.networks` for: names in timm, and model types of transformers.
ARCHITECTURES = (
    "cifar_resnet8",
    "cifar_resnet20",
    "cifar_resnet50",
    "cifar_resnet110",
    "cifar_wide_resnet26_10",
    "cifar_densenet121",
    "tiny_imagenet_resnet50",
)
MODEL_TYPES = (GlobalPoolingCNNConfig.model_type, TreeLSTMConfig.model_type)
EXAMPLES = {TreeLSTMConfig.model_type: "(3 (2 It) (4 (2 is) (4 good)))"}  # inputs, of model types that take no text

__all__ = [
    "ARCHITECTURES",
    "EXAMPLES",
    "MODEL_TYPES",
    "CifarDenseNet",
    "CifarResNet",
    "CifarWideResNet",
    "GlobalPoolingCNNConfig",
    "GlobalPoolingCNNForSequenceClassification",
    "TreeLSTMConfig",
    "TreeLSTMForSequenceClassification",
    "create_global_pooling_cnn",
    "create_tree_lstm",
]
