# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Networks of the paper; importing them registers those for images with timm, those for text with the Auto classes."""

from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from .cifar import default_cfgs
from .global_pooling_cnn import GlobalPoolingCNNConfig as GlobalPoolingCNNConfig
from .global_pooling_cnn import GlobalPoolingCNNForSequenceClassification as GlobalPoolingCNNForSequenceClassification
from .global_pooling_cnn import create_global_pooling_cnn as create_global_pooling_cnn
from .tree_lstm import TreeLSTMConfig as TreeLSTMConfig
from .tree_lstm import TreeLSTMForSequenceClassification as TreeLSTMForSequenceClassification
from .tree_lstm import create_tree_lstm as create_tree_lstm
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
ARCHITECTURES = tuple(default_cfgs)
MODEL_TYPES = (GlobalPoolingCNNConfig.model_type, TreeLSTMConfig.model_type)
EXAMPLES = {TreeLSTMConfig.model_type: "(3 (2 It) (4 (2 is) (4 good)))"}  # inputs, of model types that take no text
