"""Variants as the command line names them."""

from dataclasses import replace

import pytest

from fathom.cli.verb import with_settings
from fathom.errors import UserError
from fathom.recipes import policy_recipe
from fathom.recipes.variants import Variant, read_variants
from fathom.training.policy import PolicyRecipe

RECIPE = policy_recipe("quickstart")


def read(*items: str, recipe: PolicyRecipe = RECIPE) -> list[Variant]:
    return read_variants(items, recipe, lambda base, words: with_settings(base, words, "fathom ablate"))


def test_the_issues_variants() -> None:
    depth = RECIPE.policy.depth
    assert depth is not None
    items = ("depth=none", "depth_weight=0", "target=pixels", "visibility=dreamvla", "blind=true")
    assert [variant.recipe for variant in read(*items)] == [
        replace(RECIPE, policy=replace(RECIPE.policy, depth=None)),
        replace(RECIPE, depth_weight=0.0),
        replace(RECIPE, policy=replace(RECIPE.policy, depth=replace(depth, target="pixels"))),
        replace(RECIPE, policy=replace(RECIPE.policy, depth=replace(depth, visibility="dreamvla"))),
        replace(RECIPE, policy=replace(RECIPE.policy, blind=True)),
    ]


def test_a_name_may_have_as_many_dots_as_it_needs() -> None:
    long, middle = read("policy.depth.image_size=64", "vision.image-size=32")
    assert long.changes == {"policy.depth.image_size": "64"} and long.recipe.policy.depth.image_size == 64  # type: ignore[union-attr]
    assert middle.recipe.policy.vision.image_size == 32
    with pytest.raises(UserError, match=r"policy\.vision\.image_size, policy\.depth\.image_size: give more"):
        read("image_size=64")


def test_several_changes_make_one_variant() -> None:
    (variant,) = read("depth=none+episodes_per_task=10")
    assert variant.recipe.policy.depth is None and variant.recipe.episodes_per_task == 10
    assert variant.changes == {"policy.depth": "none", "episodes_per_task": "10"}
    assert variant.folder == variant.name == "depth=none+episodes_per_task=10"


def test_switches_lists_and_what_is_not_there_yet() -> None:
    off, frozen, adapters, some = read("in_memory=false", "freeze=vlm vision", "lora.rank=4", "epochs=2+steps=1000")
    assert off.recipe.training.in_memory is False
    assert frozen.recipe.freeze == ("vlm", "vision") and frozen.folder == "freeze=vlm_vision"
    assert adapters.recipe.lora is not None and adapters.recipe.lora.rank == 4
    assert some.recipe.training.epochs == 2
    blind = replace(RECIPE, policy=replace(RECIPE.policy, blind=True))
    (sighted,) = read("blind=false", recipe=blind)
    assert sighted.recipe == RECIPE
    few = replace(RECIPE, episodes_per_task=10)
    assert read("episodes_per_task=none", recipe=few)[0].recipe == RECIPE


def test_another_recipe_is_trained_on_the_same_data_with_the_same_budget() -> None:
    """Its policy and what weighs its losses are its own."""
    longer = replace(RECIPE, training=replace(RECIPE.training, steps=7, batch_size=3), episodes_per_task=9)
    plain, baseline, both = read(
        "recipe=deepvision_quickstart",
        "recipe=deepvision_quickstart+expert=none",
        "recipe=deepvision_depth_quickstart+depth.grid=8+steps=5",
        recipe=longer,
    )
    own = policy_recipe("deepvision_quickstart")
    assert plain.recipe.policy == own.policy and plain.recipe.depth_weight == own.depth_weight == 0
    assert plain.recipe.training == longer.training and plain.recipe.episodes_per_task == 9
    assert plain.changes == {"recipe": "deepvision_quickstart"}
    assert baseline.recipe == replace(plain.recipe, policy=replace(own.policy, expert=None))
    assert baseline.changes == {"recipe": "deepvision_quickstart", "policy.expert": "none"}
    assert both.recipe.policy.depth is not None and both.recipe.policy.depth.grid == 8
    assert both.recipe.training == replace(longer.training, steps=5)


def test_deepvisions_variants() -> None:
    """Every choice that the paper varies is one change away."""
    recipe = policy_recipe("deepvision_quickstart")
    names = "expert=none fusion=early fusion=aligned which=first which=uniform coupled=2 encoder=siglip pruning=none"
    names += " keep=64 keep=0.25 guide=cls+first_layer=0 guide=instruction first_layer=2 reads=prompt positions=native"
    found = read(*names.split(), "expert.kv_heads=4", recipe=recipe)
    of = {variant.name: variant.recipe.policy.expert for variant in found}  # type: ignore[attr-defined]
    assert of["expert=none"] is None and of["pruning=none"].pruning is None
    assert (of["keep=64"].pruning.keep, of["keep=0.25"].pruning.keep) == (64, 0.25)
    assert (of["which=first"].joining, of["encoder=siglip"].encoder) == ((0, 1, 2), "siglip")


@pytest.mark.parametrize(
    ("items", "told"),
    [
        (["depth"], "'depth' should be name=value"),
        (["depth="], "should be name=value"),
        (["depth=none+"], "'' should be name=value"),
        (["visbility=dreamvla"], r"no field 'visbility': did you mean policy\.depth\.visibility"),
        (["depht_weight=0"], "did you mean depth_weight"),
        (["blind=maybe"], "it is true or false"),
        (["depth_weight=0.1"], "changes nothing"),
        (["blind=false"], "changes nothing"),
        (["depth=none", "policy.depth=None"], "are the same variant"),
        (["recipe=quikstart"], "no recipe called 'quikstart': did you mean quickstart"),
        (["recipe=quickstart"], "changes nothing"),
        (["depth_weight=0", "depth_weight=0.0"], "are the same variant"),
    ],
)
def test_bad_variants_are_told_in_a_sentence(items: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        read(*items)


def test_a_value_of_the_wrong_type_is_told_as_for_train(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read("visibility=all")
    assert ended.value.code == 2 and "within_modality" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ("coupled=9", "expert.coupled is 9, but the vision expert has only 4 layers"),
        ("coupled=4+policy.layers=3", "expert.coupled is 4, but the language model has only 3 layers to meet"),
        ("keep=257", "expert.pruning.keep is 257, but the vision expert has only 256 patch tokens"),
        ("guide=cls", "only the first 1 of the vision expert come before the layers that meet"),
    ],
)
def test_a_vision_expert_that_cannot_be_is_told_in_a_sentence(
    item: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        read(item, recipe=policy_recipe("deepvision_quickstart"))
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert ended.value.code == 2 and told in said
