"""Compress the weights of a converted program as a recipe says, with coremltools' own post-training methods.

    small = compress(converted.mlmodel, Recipe(quantize="int4-block32"))
    small.save("decoder.mlpackage")

What coremltools leaves as it is it mentions in its log at most; ``weight_report`` lists every weight afterwards.
"""

from __future__ import annotations

from typing import Any

from workbench.convert.coreml.exporting import fresh_names, import_coremltools, quiet
from workbench.convert.coreml.recipe import Recipe
from workbench.convert.coreml.state_writes import state_writes
from workbench.convert.coreml.thresholds import thresholds
from workbench.errors import ModelError, RuntimeMissing

BLOCK = 32
"""Input channels that share a scale in ``int4-block32``."""
MOST_LEFT = 2048
"""Elements up to which coremltools leaves a weight as it is (its ``weight_threshold``)."""


def compress(mlmodel: Any, recipe: Recipe) -> Any:
    """Another model with its weights compressed; ``mlmodel`` itself where nothing is asked. The same model gives the same bytes.

    Raises ModelError with what coremltools said, and RuntimeMissing where k-means needs scikit-learn.
    """
    recipe.check()
    if recipe.quantize is None:
        return mlmodel
    import_coremltools()
    try:
        with quiet(), state_writes(), thresholds():
            fresh_names()
            return _METHODS[recipe.quantize](mlmodel)
    except ModuleNotFoundError as error:
        raise RuntimeMissing(
            f"{recipe.quantize} needs a library that is not installed", why=str(error), fix="pip install 'parity-workbench[coreml]'"
        ) from error
    except Exception as error:  # coremltools raises many kinds
        said = " ".join(str(error).split())[:400]
        raise ModelError(
            f"coremltools cannot compress the model to {recipe.quantize}", why=f"{type(error).__name__}: {said}"
        ) from error


def _linear(mlmodel: Any, **settings: Any) -> Any:
    import coremltools.optimize.coreml as optimize

    config = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=MOST_LEFT, **settings)
    return optimize.linear_quantize_weights(mlmodel, optimize.OptimizationConfig(global_config=config))


def _palette(mlmodel: Any, bits: int) -> Any:
    """k-means of scikit-learn is seeded by coremltools; on one thread its sums are in one order, so its result is one whatever the machine's
    load."""
    import coremltools.optimize.coreml as optimize
    from threadpoolctl import threadpool_limits

    config = optimize.OpPalettizerConfig(mode="kmeans", nbits=bits, weight_threshold=MOST_LEFT)
    with threadpool_limits(limits=1):
        return optimize.palettize_weights(mlmodel, optimize.OptimizationConfig(global_config=config))


def _prune(mlmodel: Any, share: float) -> Any:
    import coremltools.optimize.coreml as optimize

    config = optimize.OpMagnitudePrunerConfig(target_sparsity=share, weight_threshold=MOST_LEFT)
    return optimize.prune_weights(mlmodel, optimize.OptimizationConfig(global_config=config))


_METHODS = {
    "int8": lambda model: _linear(model, dtype="int8", granularity="per_channel"),
    "int4-block32": lambda model: _linear(model, dtype="int4", granularity="per_block", block_size=BLOCK),
    "palette4": lambda model: _palette(model, 4),
    "palette6": lambda model: _palette(model, 6),
    "prune50": lambda model: _prune(model, 0.5),
}
