"""The methods on features, by name; their terms are in `*_terms.py`."""

import functools

from kd_jax.methods import pairs as taps
from kd_jax.methods.method import (
  AT_T,
  Method,
  beside,
  function,
  nothing,
  setting,
)

_taps = functools.partial(function, "feature_terms")
_relations = functools.partial(function, "relation_terms")
_projectors = functools.partial(function, "projector_terms")
_stages = functools.partial(function, "stage_terms")
_views = functools.partial(function, "view_terms")
_TRANSPORT = (
    "{target:g} * p_y CE + {weight:.3g} * W of the other classes, cost 1 - "
    "exp(-{sharpness:g} (1 - cos)), r = {regularisation:g}, to 0 from {decay:.3g} "
    "of the run on")


def _contrast(name: str, others: str) -> Method:
  """CRD by the function `name`; `others` says what an example is told from."""
  return beside(
      "{weight:.3g} * NCE at {tau:g} against " + others, _relations("crd_init"),
      _relations(name), pairs=taps.pooled, relations=True, reads_labels=True,
      memory=True, numbers={"weight": 0.8, "tau": 0.07, "negatives": 16384.0},
      within={"tau": (1e-2, 1e6), "negatives": (1.0, 1e9)},
      whole=("negatives",), paper="Tian et al. (2020), arXiv 1910.10699")


ON_FEATURES: dict[str, Method] = {
    "hint": beside(
        "{weight:.3g} * |r(f) - g|**2 / size", _taps("hint_init"),
        _taps("hint"), pairs=taps.middle, numbers={"weight": 100.0},
        paper="Romero et al. (2015), FitNets, arXiv 1412.6550"),
    "rkd": beside(
        "{weight:.3g} * ({distance:g} * D + {angle:g} * A)", nothing,
        _relations("rkd"), pairs=taps.pooled, relations=True,
        numbers={"weight": 1.0, "distance": 25.0, "angle": 50.0},
        paper="Park et al. (2019), arXiv 1904.05068"),
    "pefd": beside(
        "{weight:.3g} * (1 - cos(mean relu(A f), g))",
        _projectors("pefd_init"), _projectors("pefd"),
        pairs=taps.pooled, numbers={"weight": 25.0},
        paper="Chen et al. (2022), arXiv 2210.15274"),
    "srd": beside(
        "{weight:.3g} * log |A f - g|**4, both standardised",
        _projectors("projector_init"),
        _projectors("srd"), pairs=taps.pooled, relations=True,
        numbers={"weight": 2.0},
        paper="Miles & Mikolajczyk (2024), arXiv 2303.11098"),
    "itrd": beside(
        "{weight:.3g} * ({correlation:g} * log2 |c - 1|**(2 * {alpha:g}) + "
        "{information:g} * (|G|**2 - |GH|**2))",
        _projectors("projector_init"),
        _projectors("itrd"), pairs=taps.pooled, relations=True,
        numbers={"weight": 1.0, "correlation": 2.0, "information": 1.0,
                 "alpha": 1.01}, within={"alpha": (0.51, 10.0)},
        paper="Miles et al. (2022), arXiv 2112.00459"),
    "nd": beside(
        "{weight:.3g} * (1 - <f, c> / max(|f|, |g|)), c the class's mean of norm 1",
        _projectors("nd_init"), _projectors("nd"),
        pairs=taps.pooled, numbers={"weight": 2.0}, classes=True, reads_labels=True,
        paper="Wang et al. (2023), KD++, arXiv 2305.17007"),
    "wkd_l": beside(
        _TRANSPORT + AT_T,
        # Its tap says that it needs a net, and one alone.
        nothing, _projectors("wkd_l"), pairs=taps.pooled, heads=True,
        numbers={"weight": 600.0, "target": 1.0, "sharpness": 1.0,
                 "regularisation": 0.05, "decay": 150 / 240},
        within={"regularisation": (1e-3, 1e3), "decay": (0.0, 1.0)},
        reads_labels=True, any_temperature=True)._replace(
            softens=True, setting=setting(1.0, 0.0, 8.0),
            weights=("hard_weight", "weight", "target"),
            added=_TRANSPORT,
            paper="Lv et al. (2024), arXiv 2412.08139"),
    "wkd_f": beside(
        "{weight:.3g} * ({mean:g} * |means|**2 + |deviations|**2), {grid:g} x "
        "{grid:g} cells, to 0 from {decay:.3g} of the run on",
        _stages("wkd_f_init"),
        _stages("wkd_f"), pairs=taps.last_map,
        numbers={"weight": 0.08, "mean": 4.0, "grid": 1.0, "decay": 150 / 240},
        within={"grid": (1.0, 8.0), "decay": (0.0, 1.0)}, whole=("grid",),
        paper="Lv et al. (2024), arXiv 2412.08139"),
    "reviewkd": beside(
        "{weight:.3g} * HCL of fused stages, over {warmup:.3g} of the run from 0",
        _stages("reviewkd_init"), _stages("reviewkd"),
        pairs=taps.levels, numbers={"weight": 5.0, "warmup": 20 / 240},
        within={"warmup": (0.0, 1.0)},
        paper="Chen et al. (2021), arXiv 2104.09044"),
    "ofd": beside(
        "{weight:.3g} * |r(f) - max(g, m)|**2 where it counts, stages halved",
        _stages("ofd_init"), _stages("ofd"),
        pairs=taps.before_relu, numbers={"weight": 1e-3},
        paper="Heo et al. (2019), arXiv 1904.01866"),
    "cat": beside(
        "{weight:.3g} * |A - B|**2 / size, maps of classes of {resolution:g} x "
        "{resolution:g}, of norm 1 if {normalised:g}", nothing,
        _stages("cat"), pairs=taps.pooled_maps, heads=True,
        numbers={"weight": 15.0, "resolution": 2.0, "normalised": 0.0},
        within={"resolution": (1.0, 8.0), "normalised": (0.0, 1.0)},
        whole=("resolution", "normalised"),
        paper="Guo et al. (2023), arXiv 2304.12777"),
    "simkd": beside(
        "{weight:.3g} * |r(f) - g|**2 / size; then the teacher's last layer",
        _stages("simkd_init"), _stages("simkd"),
        pairs=taps.pooled_maps, heads=True, classes=True, numbers={"weight": 1.0},
        inference=_stages("simkd_inference"),
        paper="Chen et al. (2022), arXiv 2203.14001")._replace(
            added="{weight:.3g} * |r(f) - g|**2 / size, then the teacher's last "
                  "layer", setting={"hard_weight": 0.0, "soft_weight": 0.0}),
    "at": beside(
        "{weight:.3g} * |q(f) - q(g)|**2 / size", _taps("maps_init"),
        _taps("at"), pairs=taps.every_map, numbers={"weight": 1000.0},
        paper="Zagoruyko & Komodakis (2017), arXiv 1612.03928"),
    "sp": beside(
        "{weight:.3g} * |G - H|**2 / B**2", nothing, _relations("sp"),
        pairs=taps.last_stage, relations=True, numbers={"weight": 3000.0},
        paper="Tung & Mori (2019), arXiv 1907.09682"),
    "pkt": beside(
        "{weight:.3g} * KL(P || Q) / B**2", nothing, _relations("pkt"),
        pairs=taps.pooled, relations=True, numbers={"weight": 30000.0},
        paper="Passalis & Tefas (2018), arXiv 1803.10837"),
    "vid": beside(
        "{weight:.3g} * -log N(g; m(f), v) / size", _taps("vid_init"),
        _taps("vid"), pairs=taps.every_stage, numbers={"weight": 1.0},
        paper="Ahn et al. (2019), arXiv 1904.05835"),
    "cc": beside(
        "{weight:.3g} * <|d_b|, |d_(b+1)|> / (B - 1)", _relations("cc_init"),
        _relations("cc"), pairs=taps.pooled, relations=True,
        numbers={"weight": 0.02},
        paper="Peng et al. (2019), arXiv 1904.01802, as RepDistiller has it"),
    "cc_kernel": beside(
        "{weight:.3g} * |K - H|**2 / B**2, K = exp(-{gamma:g} |u - u'|**2)",
        nothing, _relations("cc_kernel"), pairs=taps.pooled, relations=True,
        numbers={"weight": 1.0, "gamma": 0.4},
        paper="Peng et al. (2019), arXiv 1904.01802"),
    "nst": beside(
        "{weight:.3g} * |M - W|**2", _taps("maps_init"), _taps("nst"),
        pairs=taps.every_map, numbers={"weight": 50.0},
        paper="Huang & Wang (2017), arXiv 1707.01219"),
    "fsp": beside(
        "{weight:.3g} * |G - H|**2 / size", _taps("fsp_init"), _taps("fsp"),
        pairs=taps.every_flow, numbers={"weight": 50.0},
        paper="Yim et al. (2017), CVPR"),
    "ab": beside(
        "{weight:.3g} * sum_i 2**(i - n) * boundary", _taps("ab_init"),
        _taps("ab"), pairs=taps.every_preact, numbers={"weight": 0.003},
        paper="Heo et al. (2019), arXiv 1811.03233"),
    "ft": beside(
        "{weight:.3g} * |q(F) - q(G)| / size + {paraphrase:.3g} * |P(g) - g|**2 / "
        "size", _taps("ft_init"), _taps("ft"), pairs=taps.last_map,
        numbers={"weight": 500.0, "paraphrase": 1.0},
        paper="Kim et al. (2018), arXiv 1802.04977"),
    "ft_attention": beside(
        "{weight:.3g} * |a(F) - a(G)| / size + {paraphrase:.3g} * |P(g) - g|**2 / "
        "size", _taps("ft_attention_init"), _taps("ft_attention"),
        pairs=taps.last_map, numbers={"weight": 200.0, "paraphrase": 1.0},
        paper="Kim et al. (2018), arXiv 1802.04977, as RepDistiller has it"),
    "crd": _contrast(
        "crd", "all examples of other classes, as {negatives:g} of them"),
    "crd_drawn": _contrast(
        "crd_drawn", "{negatives:g} drawn examples of other classes"),
}

# Of nets that learn without labels, but for their last layer.
SELF_SUPERVISED: dict[str, Method] = {
    "dogo": beside(
        "{contrast:.3g} * NT-Xent at {tau:g} + {weight:.3g} * KL of likenesses at "
        "{likeness_tau:g}", _views("dogo_init"), _views("dogo"),
        pairs=taps.pooled, relations=True, two_views=True, probe=True,
        # The released code has 100, and divides by the square of its batch of 256.
        numbers={"contrast": 1.0, "weight": 100 / 256, "tau": 0.5,
                 "likeness_tau": 0.1},
        within={"tau": (1e-2, 1e6), "likeness_tau": (1e-2, 1e6)},
        embed=_views("dogo_embed"))._replace(
            added="", weights=("hard_weight", "contrast", "weight"),
            paper="Bhat et al. (2021), arXiv 2104.09866"),
}
