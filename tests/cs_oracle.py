"""The three kernel estimators by the formulas: at 50 digits, and dense in float64."""

from __future__ import annotations

import math

import mpmath
import torch

mpmath.mp.dps = 50


def data(n, m, d_s, d_a, *, seed=0, same=False, shift=0.5):
    """States (n, d_s), (m, d_s) and actions (n, d_a), (m, d_a) in float32, of order one."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    states_p, actions_p = draw(n, d_s), draw(n, d_a)
    states_q, actions_q = (states_p if same else draw(m, d_s)), 0.8 * draw(m, d_a) + shift
    return states_p, actions_p, states_q, actions_q


def gram(x, y, width):
    two_h2 = 2 * mpmath.mpf(width) ** 2
    rows_x, rows_y = ([list(map(mpmath.mpf, row)) for row in z.double().tolist()] for z in (x, y))
    return [
        [
            mpmath.exp(-mpmath.fsum((a - b) ** 2 for a, b in zip(r, s, strict=True)) / two_h2)
            for s in rows_y
        ]
        for r in rows_x
    ]


def term(K, L, first, second):
    """sum_i (K L)_i / (first_i second_i)"""
    return mpmath.fsum(
        mpmath.fsum(k * v for k, v in zip(K_i, L_i, strict=True)) / (f * g)
        for K_i, L_i, f, g in zip(K, L, first, second, strict=True)
    )


def oracle(states_p, actions_p, states_q, actions_q, *, state_width, action_width, variant="yu"):
    s, a = {"p": states_p, "q": states_q}, {"p": actions_p, "q": actions_q}
    pairs = ("pp", "qq", "pq", "qp")
    K = {pair: gram(s[pair[0]], s[pair[1]], state_width) for pair in pairs}
    L = {pair: gram(a[pair[0]], a[pair[1]], action_width) for pair in pairs}
    below = L if variant == "printed" else K
    sums = {pair: [mpmath.fsum(row) for row in below[pair]] for pair in pairs}
    own = {"p": sums["pp"], "q": sums["pp"] if variant == "printed" else sums["qq"]}
    value = mpmath.log(term(K["pp"], L["pp"], sums["pp"], sums["pp"]))
    value += mpmath.log(term(K["qq"], L["qq"], sums["qq"], sums["qq"]))
    value -= mpmath.log(term(K["pq"], L["pq"], own["p"], sums["pq"]))
    value -= mpmath.log(term(K["qp"], L["qp"], own["q"], sums["qp"]))
    return value / mpmath.log(2) if variant == "official" else value


def dense(s_p, a_p, s_q, a_q, *, state_width, action_width, variant="yu"):
    """The formulas with every Gram in full, from exact differences, in the inputs' precision."""

    def grams(x, y, width):
        return torch.exp(-0.5 * ((x[:, None] - y) / width).square().sum(-1))

    K = [grams(x, y, state_width) for x, y in ((s_p, s_p), (s_q, s_q), (s_p, s_q), (s_q, s_p))]
    L = [grams(x, y, action_width) for x, y in ((a_p, a_p), (a_q, a_q), (a_p, a_q), (a_q, a_p))]
    pp, qq, pq, qp = ((L if variant == "printed" else K)[i].sum(1) for i in range(4))
    below = (pp * pp, qq * qq, pp * pq, (pp if variant == "printed" else qq) * qp)
    terms = [torch.log(((k * v).sum(1) / b).sum()) for k, v, b in zip(K, L, below, strict=True)]
    value = terms[0] + terms[1] - terms[2] - terms[3]
    return value / math.log(2.0) if variant == "official" else value
