"""Which settings a run's folder is bound to, and which values no run can have."""

from dataclasses import dataclass, field, fields, replace

import pytest

from fathom.errors import UserError
from fathom.training.config import GroupScales, OptimizerConfig, TrainingConfig
from fathom.training.policy import PolicyRecipe
from fathom.training.settings import check, claim, recorded

OTHERS = {
    "micro_batch": 16, "in_memory": False, "workers": 7, "shard": 4, "recompute": True, "compile": True,
    "log_every": 3, "checkpoint_every": 5, "keep_last": 9, "keep_best": 1, "track": ("tensorboard",),
    "evaluate_every": 10, "on_bad_loss": "skip", "loss_limit": 3.0, "rank_timeout_s": 5.0,
}  # fmt: skip


@dataclass(frozen=True)
class Pipeline:
    """Like the quickstart: the training is two levels down."""

    policy: PolicyRecipe = field(default_factory=PolicyRecipe)


def test_what_does_not_change_the_weights_may_be_another(tmp_path):
    assert OTHERS.keys() == TrainingConfig.CHANGEABLE <= {one.name for one in fields(TrainingConfig)}
    changed = Pipeline(PolicyRecipe(training=TrainingConfig(**OTHERS)))
    claim(tmp_path, Pipeline())
    check(tmp_path, changed)
    claim(tmp_path, changed)
    assert recorded(tmp_path)["policy"]["training"]["workers"] == 7  # the folder says what it goes on with


def test_only_what_must_be_the_same_is_named(tmp_path):
    claim(tmp_path, Pipeline(), dataset="a")
    training = TrainingConfig(**OTHERS, seed=3, optimizer=OptimizerConfig(lr=1e-3))
    with pytest.raises(UserError) as refused:
        check(tmp_path, Pipeline(PolicyRecipe(training=training)), dataset="b")
    assert str(refused.value) == (
        f"{tmp_path} holds a run with other settings (policy.training.seed is 0 there and 3 here; "
        "policy.training.optimizer.lr is 5e-05 there and 0.001 here; made_from.dataset is a there and b here): "
        "choose another folder or delete it"
    )


def test_a_folder_that_is_nobodys(tmp_path):
    check(tmp_path, Pipeline())
    assert recorded(tmp_path) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", 0.0), ("lr", -1.0), ("lr", float("nan")), ("cycle_steps", 0), ("clip_norm", 0.0), ("warmup_steps", -1),
        ("weight_decay", -0.1), ("beta_1", 1.0), ("beta_2", -0.1), ("final_share", 1.1),
    ],
)  # fmt: skip
def test_an_optimizer_that_cannot_learn(name, value):
    with pytest.raises(ValueError, match=f"{name} (is )?{value:g}"):
        OptimizerConfig(**{name: value})


def test_the_edges_can(tmp_path):
    OptimizerConfig(warmup_steps=0, weight_decay=0, beta_1=0, final_share=1.0, scale=GroupScales(vlm=0))
    with pytest.raises(ValueError, match="scale of vision is -1"):
        replace(GroupScales(), vision=-1.0)
