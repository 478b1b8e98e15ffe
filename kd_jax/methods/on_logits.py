"""The methods on logits, by name; their terms are in `logit_terms.py`."""

import functools

from kd_jax.core import limits
from kd_jax.methods.method import (
  AT_T,
  Method,
  function,
  nothing,
  setting,
  weighted,
)

_terms = functools.partial(function, "logit_terms")
_HINTON = "Hinton, Vinyals & Dean (2015), arXiv 1503.02531"
_BORN_AGAIN = "Furlanello et al. (2018), arXiv 1805.04770"


ON_LOGITS: dict[str, Method] = {
    "hard": Method(
        "CE", nothing, _terms("hard"), needs_teacher=False, softens=False),
    "kd": weighted(
        "T**2 * KL" + AT_T, nothing, _terms("kd"), paper=_HINTON),
    "logits": weighted(
        "|z - v|**2 / 2N", nothing, _terms("logits"),
        any_temperature=True, softens=False,
        paper=f"{_HINTON}, eq. 4; Ba & Caruana (2014), arXiv 1312.6184"),
    "mse": weighted(
        "|z - v|**2 / N, not centred", nothing, _terms("mse"),
        setting={"hard_weight": 0.0, "soft_weight": 1.0}, any_temperature=True,
        softens=False, paper="Kim et al. (2021), arXiv 2105.08919"),
    "annealed": weighted(
        "|z - a v|**2 / N, a from 1/{levels:g} to 1 in {levels:g} steps",
        nothing, _terms("annealed"), numbers={"levels": 10.0},
        within={"levels": (1.0, 1e6)}, whole=("levels",),
        setting={"hard_weight": 0.0, "soft_weight": 1.0}, any_temperature=True,
        softens=False, paper="Jafari et al. (2021), arXiv 2104.07163"),
    "reverse_kl": weighted(
        "T**2 * KL(student || teacher)" + AT_T,
        nothing, _terms("reverse_kl"),
        paper="Gu et al. (2024), MiniLLM, arXiv 2306.08543"),
    "jsd": weighted(
        "T**2 * JSD({beta:g})" + AT_T, nothing, _terms("jsd"),
        numbers={"beta": 0.5}, within={"beta": (0.0, 1.0)},
        paper="Agarwal et al. (2024), GKD, arXiv 2306.13649"),
    "ls": weighted(
        "T**2 * KL of Z-scores" + AT_T, nothing, _terms("ls"),
        setting=setting(0.1, 9.0, 2.0), any_temperature=True,
        paper="Sun et al. (2024), arXiv 2403.01427"),
    "normkd": weighted(
        "(T d)**2 * KL at T d, d the logits' deviation" + AT_T,
        nothing, _terms("normkd"), setting=setting(0.1, 0.9, 2.0),
        any_temperature=True, paper="Chi et al. (2023), arXiv 2308.00520"),
    "dkd": weighted(
        "T**2 * ({alpha:g} * TCKD + {beta:g} * NCKD)" + AT_T,
        nothing, _terms("dkd"), numbers={"alpha": 1.0, "beta": 8.0},
        reads_labels=True, setting=setting(1.0, 1.0, 4.0),
        paper="Zhao et al. (2022), arXiv 2203.08679"),
    "nkd": weighted(
        "(p_y * CE + {gamma:g} * T**2 * CE of the others)" + AT_T,
        nothing, _terms("nkd"), numbers={"gamma": 1.5}, any_temperature=True,
        reads_labels=True,
        setting=setting(1.0, 1.0, 1.0),
        paper="Yang et al. (2023), arXiv 2303.13005"),
    "rld": weighted(
        "({alpha:g} * S**2 * SCD + {beta:g} * T**2 * MCD), "
        "S = {confidence_temperature:g}" + AT_T, nothing, _terms("rld"),
        numbers={"alpha": 1.0, "beta": 8.0, "confidence_temperature": 1.0},
        within={"confidence_temperature": limits.TEMPERATURES},
        any_temperature=True, reads_labels=True,
        setting=setting(1.0, 1.0, 4.0),
        paper="Sun et al. (2024), arXiv 2408.07703"),
    "wttm": weighted(
        "U * KL(teacher at T || student at 1)" + AT_T,
        nothing, _terms("wttm"), setting=setting(1.0, 4.0, 5.0),
        any_temperature=True, paper="Zheng & Yang (2024), arXiv 2402.11148"),
    "topk": weighted(
        "T**2 * KL of the top {k:g} and the rest" + AT_T,
        nothing, _terms("topk"), numbers={"k": 5.0},
        within={"k": (1.0, 1e6)}, whole=("k",)),
    "topk_renormalised": weighted(
        "T**2 * KL of the top {k:g}, renormalised" + AT_T,
        nothing, _terms("topk_renormalised"), numbers={"k": 5.0},
        within={"k": (1.0, 1e6)}, whole=("k",)),
    "tfkd": weighted(
        "KL(u at T || student at 1), u_y = {correct:g}" + AT_T,
        nothing, _terms("tfkd"), needs_teacher=False, reads_labels=True,
        numbers={"correct": 0.99}, within={"correct": (1e-6, 1.0)},
        setting=setting(0.9, 0.1, 20.0),
        paper="Yuan et al. (2020), arXiv 1909.11723"),
    "dist": weighted(
        "T**2 * ({beta:g} * rows + {gamma:g} * columns), each "
        "1 - correlation" + AT_T, nothing, _terms("dist"),
        numbers={"beta": 2.0, "gamma": 2.0}, relations=True,
        setting=setting(1.0, 1.0, 4.0),
        paper="Huang et al. (2022), arXiv 2205.10536"),
    "mlkd": weighted(
        "(S**2 * KL + {batch:g} * |PP' - QQ'|**2 / B + {classes:g} * "
        "|P'P - Q'Q|**2 / N), summed over S = {temperature:g} * (0.5, 0.75, 1, "
        "1.25, 1.5)", nothing, _terms("mlkd"),
        numbers={"batch": 1.0, "classes": 1.0}, relations=True,
        setting=setting(0.1, 0.9, 4.0), any_temperature=True,
        paper="Jin et al. (2023), CVPR"),
    "ctkd": weighted(
        "T**2 * KL, T learned in {start:g} + (0, {span:g}), reversed "
        "over {ramp:.3g} of the run", _terms("ctkd_init"), _terms("ctkd"),
        numbers={"start": 1.0, "span": 20.0, "ramp": 10 / 240},
        within={"start": limits.TEMPERATURES}, any_temperature=True, softens=False,
        setting={"hard_weight": 0.1, "soft_weight": 0.9},
        paper="Li et al. (2023), arXiv 2211.16231"),
    "cwtm": weighted(
        "B max p / sum max p * CE" + AT_T, nothing, _terms("cwtm"),
        reads_labels=True, relations=True, setting=setting(0.0, 1.0, 1.0),
        paper=_BORN_AGAIN),
    "dkpp": weighted(
        "T**2 * KL, all but the teacher's largest permuted" + AT_T,
        nothing, _terms("dkpp"), setting=setting(0.0, 1.0, 1.0),
        paper=_BORN_AGAIN),
    "pseudo_label": weighted(
        "CE of the teacher's class", nothing, _terms("pseudo_label"),
        setting={"hard_weight": 1.0, "soft_weight": 1.0}, any_temperature=True,
        softens=False,
        paper="Lee (2013), ICML workshop; Xie et al. (2020), arXiv 1911.04252"),
}
