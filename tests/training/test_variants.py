"""Every variant of the paper, one field away, trained a few steps, saved, and used again."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from tests.policies.deepvision_vla.conftest import tiny_config as tiny_deepvision

from fathom.data.batch import Whole
from fathom.data.dataset import open_dataset
from fathom.data.draws import Draws
from fathom.data.normalization import Normalization
from fathom.errors import UserError
from fathom.lora import LoRA
from fathom.policies import load_policy
from fathom.policies.deepvision_vla import DeepVisionVLAConfig
from fathom.policies.qdepth_vla import QDepthVLA
from fathom.policies.text import TextTokenizer
from fathom.recipes import POLICY_RECIPES
from fathom.training.batches import from_memory, load_into_memory
from fathom.training.loop import train
from fathom.training.policy import train_policy
from fathom.training.tokenizer import train_tokenizer

from .conftest import POLICY, TOKENIZER, TRAINING, record
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
    "horizon 16": {"horizon": 16},
    "horizon 50": {"horizon": 50},
    "two cameras": {"cameras": ("main", "wrist")},
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
    return policy, batch


@pytest.mark.parametrize("name", POLICY_FIELDS)
def test_a_field_of_the_policy(name, dataset, longer, tokenizer, tokenizers, tmp_path):
    dataset = longer if name in ("horizon 16", "horizon 50", "two cameras") else dataset
    recipe = replace(POLICY, policy=replace(POLICY.policy, **POLICY_FIELDS[name]))
    tokenizer = tokenizers.get(name, tokenizer)
    policy, batch = trained(dataset, recipe, tmp_path / "policy", tokenizer)
    if policy.config.depth:
        low, high = tokenizer.config.depth_range.near, tokenizer.config.depth_range.far
        picture = policy.predict_depth(batch)
        assert picture.shape == (2, 1, 32, 32)
        assert policy.config.depth.future == 0 or policy.predict_depth(batch, ahead=True).shape == picture.shape
        assert 0.99 * low <= picture.min() and picture.max() <= 1.01 * high


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    """Episodes of 52 frames, with a second camera."""
    return record(tmp_path_factory.mktemp("longer") / "dataset", length=52, wrist=True)


@pytest.mark.parametrize("name", POLICY_RECIPES)
def test_a_recipe_of_the_paper_trains_and_is_saved(name, dataset, tokenizer, tmp_path):
    """At these tests' size, for one of its epochs; everything else is the recipe's."""
    recipe = POLICY_RECIPES[name]()
    if isinstance(recipe.policy, DeepVisionVLAConfig):
        sizes = tiny_deepvision(depth=POLICY.policy.depth if recipe.policy.depth else None)
    else:
        sizes = replace(POLICY.policy, horizon=min(8, recipe.policy.horizon), conventions=recipe.policy.conventions)
    training = replace(recipe.training, steps=1000, epochs=1, batch_size=8, micro_batch=4, workers=0, in_memory=True)
    trained(dataset, replace(recipe, policy=sizes, training=training), tmp_path / "policy", tokenizer)
    assert log(tmp_path / "policy")[-1]["step"] == 3  # 24 frames in batches of 8


@pytest.mark.parametrize("name", RECIPE_FIELDS)
def test_a_field_of_the_recipe(name, dataset, tokenizer, tmp_path):
    policy, _ = trained(dataset, replace(POLICY, **RECIPE_FIELDS[name]), tmp_path / "policy", tokenizer)
    kept = policy.provenance.recipe
    wanted = json.loads(json.dumps(asdict(replace(POLICY, **RECIPE_FIELDS[name]))))
    for field in RECIPE_FIELDS[name]:
        assert kept[field] == wanted[field]


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


def test_the_parts_of_a_batch_add_up_to_it(dataset, tokenizer):
    """Loss and gradient of a batch with padding, as a whole and in parts; the same noise and times for both."""
    depth = replace(DEPTH, future=6)
    config = replace(POLICY.policy, depth=depth, state_dim=5, action_dim=3)
    data = open_dataset(dataset, horizon=4, depth=True, future=6, split="train")
    batch = data.batch([0, 1, 5, 7, 14, 15])  # five of them run past the end of an episode, in different measure
    assert batch.action_is_pad.any(1).tolist() == [False, False, True, True, True, True]
    torch.manual_seed(0)
    text = TextTokenizer.from_instructions(data.tasks)
    policy = QDepthVLA(
        replace(config, vocab_size=text.vocab_size), Normalization.from_stats(data.stats), text, tokenizer
    ).eval()

    def gradient(parts):
        policy.zero_grad()
        total = sum(policy.loss(part, Draws(0), Whole.of(batch)).total(0.1) for part in parts)
        total.backward()
        return total, policy.vision_tower.embeddings.patch_embedding.weight.grad.clone()

    (whole, of_whole), (parts, of_parts) = gradient([batch]), gradient(batch.split(2))
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(of_parts, of_whole)


def test_micro_batches_are_one_step(dataset, tmp_path):
    """In the loop: the gradients of the parts come together before the optimiser moves."""
    memory = load_into_memory(open_dataset(dataset, horizon=2))
    results = []
    for micro in (None, 2):
        torch.manual_seed(0)
        model = torch.nn.Linear(5, 3).double()
        config = replace(TRAINING, micro_batch=micro, steps=3)

        def loss_of(part, whole, step, generator, model=model):
            error = (model(part.state.double()) - part.actions[:, 0]).square().mean(1).sum() / len(whole)
            return error, {"error": error}

        train(model, loss_of, from_memory(memory, config), config, tmp_path / str(micro), label="test")
        results.append((model.weight.detach().clone(), log(tmp_path / str(micro))))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-10, rtol=0)
    assert [line["error"] for line in results[0][1]] == pytest.approx([line["error"] for line in results[1][1]])


def test_epochs_become_steps(dataset, tmp_path):
    """Three passes over the 24 training frames in batches of 4 are 18 steps."""
    recipe = replace(
        POLICY, policy=replace(POLICY.policy, depth=None), training=replace(TRAINING, steps=1000, epochs=3)
    )
    train_policy(dataset, recipe, tmp_path / "policy")
    assert log(tmp_path / "policy")[-1]["step"] == 18


def test_steps_and_epochs_are_one_or_the_other():
    with pytest.raises(ValueError, match=r"both steps 100 and epochs 9 are given"):
        replace(TRAINING, steps=100, epochs=9)
