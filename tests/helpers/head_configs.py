"""Configs of every kind of head that programs fuse, short and small."""

from tests.helpers.splits import config

LINEAR = [
    config("training.learning_rate=0.03"),
    config("training.weight_decay=0.5", "training.loss=focal"),
    config("training.optimizer=sgd", "training.warmup_epochs=1", "training.momentum=0.5"),
    config("training.loss=weighted_bce", "training.label_smoothing=0.1", "training.clip_norm=0.2"),
    config("training.loss=asymmetric", "training.schedule=constant", "training.max_epochs=6"),
    config("features=both", "features.normalization=whiten"),
    config("features=text", "features.normalization=l2", "training.batch_size=1000"),
    config("head.init=normal", "training.schedule=one_cycle", "features.normalization=layer"),
    config(
        *("head.init=zero", "features.normalization=std", "training.adam_betas=[0.8,0.99]"),
        *("training.adam_epsilon=1e-4", "training.early_stopping_metric=loss"),
    ),
    config("training.learning_rate=20", "training.optimizer=sgd"),  # float32 sigmoids would tie
]
MLP = [
    config("head=mlp", "head.width=16", "head.depth=1"),
    config("head=mlp", "head.width=32", "head.depth=3", "head.dropout=0.3"),
    config("head=mlp", "head.hidden_dims=[24,8]", "head.activation=gelu", "head.norm=layer"),
    config("head=mlp", "head.hidden_dims=[8,40]", "head.activation=silu", "head.dropout=0.6"),
    config("head=mlp", "head.width=12", "head.activation=tanh", "head.dropout=0.2"),
    config(
        *("head=mlp", "head.width=16", "head.init=zero", "training.adam_betas=[0.7,0.98]"),
        *("training.schedule=one_cycle", "training.one_cycle_rise=0.4"),
        *("training.adam_epsilon=1e-3", "features.normalization=layer"),
    ),
    # Batch statistics cancel the bias before them: its gradient is rounding noise, which Adam
    # would blow up to full steps.
    config("head=mlp", "head.width=12", "head.norm=batch", "training.optimizer=sgd"),
    config(
        "head=mlp", "head.width=12", "head.norm=layer", "head.dropout=0.4", "training.loss=focal"
    ),
]
SMALL_RETRIEVAL = ("head=retrieval", "head.dim=8", "head.neighbours=5", "head.temperature=0.2")
RETRIEVAL = [
    config(*SMALL_RETRIEVAL, "head.label_weight=0"),
    config(*SMALL_RETRIEVAL, "head.label_weight=1", "features=both"),
    config(*SMALL_RETRIEVAL, "head.label_weight=0.3", "features=text"),
    config(*SMALL_RETRIEVAL, "head.label_weight=0.5", "training.optimizer=sgd"),
]
