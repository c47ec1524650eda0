"""Every variant of the paper, one field away, trained a few steps, saved, and used again."""

from dataclasses import replace

import pytest
import torch

from fathom.data.dataset import open_dataset
from fathom.errors import UserError
from fathom.policies import load_policy
from fathom.policies.qdepth_vla import QDepthVLA
from fathom.training.batches import from_memory, load_into_memory
from fathom.training.loop import train
from fathom.training.policy import train_policy
from fathom.training.tokenizer import train_tokenizer
from fathom.training.tuning import LoRA

from .conftest import POLICY, TOKENIZER, TRAINING
from .test_policy_training import killed, log, weights

DEPTH = POLICY.policy.depth

POLICY_FIELDS = {
    "no depth expert": {"depth": None},
    "pixels": {"depth": replace(DEPTH, target="pixels")},
    "dreamvla": {"depth": replace(DEPTH, visibility="dreamvla")},
    "within modality": {"depth": replace(DEPTH, visibility="within_modality")},
    "a grid like the image's": {"depth": replace(DEPTH, grid=4)},
    "tau": {"depth": replace(DEPTH, temperature=2.5)},
    "future depth": {"depth": replace(DEPTH, future=2)},
    "horizon 1": {"horizon": 1},
    "horizon 8": {"horizon": 8},
    "open-pi-zero's conventions": {"conventions": "open_pi_zero"},
    "soft cap": {"softcap": 50.0},
}
RECIPE_FIELDS = {
    "depth weight 0": {"depth_weight": 0.0},
    "gamma": {"depth_weight_decay": 0.9},
    "mean and deviation": {"normalization": "mean_std"},
    "frozen language model": {"freeze": ("vlm",)},
    "frozen SigLIP": {"freeze": ("vision",)},
    "frozen embeddings": {"freeze": ("embeddings",)},
    "LoRA": {"lora": LoRA(rank=2)},
    "decoded by workers": {"training": replace(TRAINING, in_memory=False)},
}
TOKENIZER_FIELDS = {
    "fsq": ({"quantizer": "fsq", "levels": (4, 4), "codes": 16}, {}),
    "continuous latents": ({"quantizer": "none"}, {"target": "latents"}),
    "a grid like the image's": ({"grid": 4}, {"grid": 4}),
}


def trained(dataset, recipe, folder, tokenizer):
    train_policy(dataset, recipe, folder, tokenizer)
    policy = load_policy(folder)
    batch = open_dataset(dataset, horizon=policy.config.horizon, split="validation").batch([0, 3])
    assert policy.sample_actions(batch).isfinite().all()
    assert all(line["loss"] == line["loss"] for line in log(folder))
    return policy, batch


@pytest.mark.parametrize("name", POLICY_FIELDS)
def test_a_field_of_the_policy(name, dataset, tokenizer, tokenizers, tmp_path):
    recipe = replace(POLICY, policy=replace(POLICY.policy, **POLICY_FIELDS[name]))
    tokenizer = tokenizers.get(name, tokenizer)
    policy, batch = trained(dataset, recipe, tmp_path / "policy", tokenizer)
    if policy.config.depth:
        low, high = tokenizer.config.depth_range.near, tokenizer.config.depth_range.far
        picture = policy.predict_depth(batch)
        assert picture.shape == (2, 1, 32, 32)
        assert policy.config.depth.future == 0 or policy.predict_depth(batch, ahead=True).shape == picture.shape
        assert 0.99 * low <= picture.min() and picture.max() <= 1.01 * high


@pytest.mark.parametrize("name", RECIPE_FIELDS)
def test_a_field_of_the_recipe(name, dataset, tokenizer, tmp_path):
    trained(dataset, replace(POLICY, **RECIPE_FIELDS[name]), tmp_path / "policy", tokenizer)


@pytest.fixture(scope="module")
def tokenizers(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    return {
        name: train_tokenizer(
            dataset, replace(TOKENIZER, tokenizer=replace(TOKENIZER.tokenizer, **fields)), folder / str(number)
        )
        for number, (name, (fields, _)) in enumerate(TOKENIZER_FIELDS.items())
    }


@pytest.mark.parametrize("name", ["fsq", "continuous latents"])
def test_another_tokenizer(name, dataset, tokenizers, tmp_path):
    depth = replace(DEPTH, **TOKENIZER_FIELDS[name][1])
    recipe = replace(POLICY, policy=replace(POLICY.policy, depth=depth))
    policy, batch = trained(dataset, recipe, tmp_path / "policy", tokenizers[name])
    assert policy.predict_depth(batch).shape == (2, 1, 32, 32)
    assert ("depth_accuracy" in log(tmp_path / "policy")[0]) == (name == "fsq")


def test_a_target_that_the_tokenizer_does_not_have(dataset, tokenizers, tmp_path):
    with pytest.raises(UserError, match=r"depth\.target is 'codes' and the depth tokenizer's quantizer 'none'"):
        train_policy(dataset, POLICY, tmp_path / "policy", tokenizers["continuous latents"])
    assert not (tmp_path / "policy").exists()


def test_a_depth_weight_of_0_gives_the_depth_head_no_gradient(dataset, tokenizer, tmp_path):
    """The expert's own tokens still serve the actions; what only the depth loss trains stays as it was."""
    recipe = replace(
        POLICY, depth_weight=0.0, training=replace(TRAINING, optimizer=replace(TRAINING.optimizer, weight_decay=0.0))
    )
    once = train_policy(dataset, replace(recipe, training=replace(recipe.training, steps=1)), tmp_path / "a", tokenizer)
    more = train_policy(dataset, recipe, tmp_path / "b", tokenizer)
    for name, one in once.named_parameters():
        same = torch.equal(one, more.get_parameter(name))
        assert same == name.startswith(("depth_head.decoder", "depth_tokenizer")) or _unread(name), name


def _unread(name: str) -> bool:
    """What neither loss reads: the last layer's end and final norm of the streams whose output nobody wants."""
    return name.startswith(("mixture.streams.vlm.norm", "mixture.streams.depth.norm")) or (
        name.startswith(("mixture.streams.vlm.layers.1.", "mixture.streams.depth.layers.1."))
        and any(part in name for part in ("q_proj", "o_proj", "mlp", "post_attention_layernorm"))
    )


@pytest.mark.parametrize(
    ("part", "prefixes"),
    [
        ("vlm", ("mixture.streams.vlm.layers", "mixture.streams.vlm.norm", "multi_modal_projector")),
        ("vision", ("vision_tower",)),
        ("embeddings", ("mixture.streams.vlm.embed_tokens",)),
    ],
)
def test_only_what_is_frozen_stays(part, prefixes, dataset, tokenizer, tmp_path):
    recipe = replace(POLICY, freeze=(part,))
    once = train_policy(dataset, replace(recipe, training=replace(TRAINING, steps=1)), tmp_path / "a", tokenizer)
    more = train_policy(dataset, recipe, tmp_path / "b", tokenizer)
    for name, one in once.named_parameters():
        if not name.startswith("depth_tokenizer") and not _unread(name):
            assert torch.equal(one, more.get_parameter(name)) == name.startswith(prefixes), name


def test_lora_is_merged_into_the_language_model_and_into_nothing_else_of_it(dataset, tokenizer, tmp_path):
    recipe = replace(POLICY, lora=LoRA(rank=2, alpha=4))
    once = train_policy(dataset, replace(recipe, training=replace(TRAINING, steps=1)), tmp_path / "a", tokenizer)
    more = train_policy(dataset, recipe, tmp_path / "b", tokenizer)
    assert set(more.state_dict()) == set(train_policy(dataset, POLICY, tmp_path / "c", tokenizer).state_dict())
    vlm = "mixture.streams.vlm."
    for name, one in once.named_parameters():
        if name.startswith(vlm) and not _unread(name):
            change = more.get_parameter(name) - one
            assert change.any() == ("_proj" in name), name
            if change.any():
                assert torch.linalg.matrix_rank(change, rtol=1e-3) <= 4  # two merges of rank 2


def test_a_killed_lora_run_goes_on_to_the_same_weights(dataset, tokenizer, tmp_path):
    recipe = replace(POLICY, lora=LoRA(rank=2))
    train_policy(dataset, recipe, tmp_path / "whole", tokenizer)
    with killed(QDepthVLA, 3):
        train_policy(dataset, recipe, tmp_path / "killed", tokenizer)
    train_policy(dataset, recipe, tmp_path / "killed", tokenizer)
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


def test_micro_batches_add_up_to_the_batch(dataset, tmp_path):
    """One step in parts is the step as a whole: here with losses that do not depend on what is drawn."""
    memory = load_into_memory(open_dataset(dataset, horizon=2))
    results = []
    for micro in (None, 2):
        torch.manual_seed(0)
        model = torch.nn.Linear(5, 3)
        config = replace(TRAINING, micro_batch=micro, steps=3)

        def loss_of(batch, step, generator, model=model):
            error = (model(batch.state) - batch.actions[:, 0]).square().mean()
            return error, {"error": error}

        train(model, loss_of, from_memory(memory, config), config, tmp_path / str(micro), label="test")
        results.append((model.weight.detach().clone(), log(tmp_path / str(micro))))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-6, rtol=0)
    assert [line["error"] for line in results[0][1]] == pytest.approx([line["error"] for line in results[1][1]])


def test_epochs_become_steps(dataset, tmp_path):
    """Three passes over the 24 training frames in batches of 4 are 18 steps."""
    recipe = replace(POLICY, policy=replace(POLICY.policy, depth=None), training=replace(TRAINING, epochs=3))
    train_policy(dataset, recipe, tmp_path / "policy")
    assert log(tmp_path / "policy")[-1]["step"] == 18
