"""The paper's own training runs (QDepth-VLA, arXiv 2510.14836, sections 3.4.4, 4.1.1 and 4.2.1), full size.

Each starts from the weights of the one before (`fathom train DATASET --recipe … --init BEFORE`):

    open pi-zero → qdepth_fractal → qdepth_libero90 → qdepth_libero     (LIBERO)
    PaliGemma → qdepth_bridge → qdepth_fractal                          (SIMPLER: WidowX, then the Google Robot)
    one of these → qdepth_piper                                         (the real arm)
"""

from dataclasses import replace

from fathom.policies.qdepth_vla import QDepthVLAConfig
from fathom.training.config import OptimizerConfig, TrainingConfig
from fathom.training.policy import PolicyRecipe


def _paper(epochs: float) -> PolicyRecipe:
    """Sections 3.4.4 and 4.1.1: AdamW at 5e-5, 200 warm-up steps, a cosine cycle of 1e7; batches of 1024."""
    return PolicyRecipe(
        policy=QDepthVLAConfig(),
        training=TrainingConfig(
            epochs=epochs,
            batch_size=1024,
            micro_batch=32,
            precision="bf16",
            in_memory=False,
            workers=8,
            checkpoint_every=500,
            optimizer=OptimizerConfig(lr=5e-5, warmup_steps=200, cycle_steps=10_000_000),
        ),
        depth_weight=0.01,
    )


def qdepth_fractal() -> PolicyRecipe:
    """Fractal, 9 epochs: the first stage for LIBERO, the second for SIMPLER."""
    return _paper(epochs=9)


def qdepth_bridge() -> PolicyRecipe:
    """Bridge, 13 epochs, from PaliGemma: the first stage for SIMPLER, evaluated on WidowX."""
    return _paper(epochs=13)


def qdepth_libero90() -> PolicyRecipe:
    """LIBERO-90, 20 epochs, from :func:`qdepth_fractal`."""
    return _paper(epochs=20)


def qdepth_libero() -> PolicyRecipe:
    """LIBERO Spatial, Object, Goal or Long, about 50 epochs, from :func:`qdepth_libero90`."""
    return _paper(epochs=50)


def qdepth_piper() -> PolicyRecipe:
    """One task on the real Piper arm, 50 demonstrations: chunks of 16, all else as in simulation.

    The number of epochs is unstated; 50, as for LIBERO [D].
    """
    recipe = _paper(epochs=50)
    return replace(recipe, policy=replace(recipe.policy, horizon=16))
