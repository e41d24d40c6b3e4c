"""The network of the interest model: u = sum of w_t * h_t over embedded behaviour, short and long term.

h_t embeds what was done: the item (its id and its text on the catalogue's
principal components) or the user's own text, the event's type, strength and
liking, and the time since the entry before. A causal transformer turns the
sequence into a short-term interest; attention whose query is the user's own
embedding (the mean of all they did) pools it into a long-term one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding, gelu, layer_norm, normalize, pad

from pipeline.learning.batch import LEVELS, TYPES, consumes_of, kind_of, level_of, liked_of
from pipeline.learning.catalogue import PROJECTED
from pipeline.learning.sequences import GAP_BUCKETS, Tokens

LAYERS = 2
HEADS = 2

Weights = dict[str, Tensor]


def start_weights(width: int, length: int, generator: torch.Generator) -> Weights:
    """Random initial parameters, item embeddings excepted."""

    def normal(*shape: int, scale: float = 0.02) -> Tensor:
        return torch.randn(*shape, generator=generator) * scale

    weights = {
        "text_PD": normal(PROJECTED, width, scale=0.1),
        "kind_KD": normal(TYPES, width),
        "level_KD": normal(LEVELS, width),
        "liked_KD": normal(4, width),
        "gap_KD": normal(GAP_BUCKETS, width),
        "asked_KD": normal(2, width),
        "start_D": normal(width),
        "lag_TH": torch.zeros(length + 1, LAYERS * HEADS),
        "page_H": torch.zeros(LAYERS * HEADS),
        "pool_query_DD": normal(width, width, scale=width**-0.5),
        "pool_out_DD": normal(width, width),
        "pool_lag_T": torch.zeros(length + 1, 1),
        "out_norm_D": torch.ones(width),
        "out_bias_D": torch.zeros(width),
        "popular_H": torch.tensor([0.25, 0.25, 0.0, 0.0]),
    }
    for layer in range(LAYERS):
        weights |= {
            f"{layer}.norm_D": torch.ones(width),
            f"{layer}.shift_D": torch.zeros(width),
            f"{layer}.qkv_DE": normal(width, 3 * width, scale=width**-0.5),
            f"{layer}.out_DD": normal(width, width, scale=width**-0.5 / LAYERS),
            f"{layer}.ff_norm_D": torch.ones(width),
            f"{layer}.ff_shift_D": torch.zeros(width),
            f"{layer}.up_DF": normal(width, 2 * width, scale=width**-0.5),
            f"{layer}.down_FD": normal(2 * width, width, scale=(2 * width) ** -0.5 / LAYERS),
        }
    return weights


class Dropout:
    """Dropout from a generator of its own: global randomness is never touched."""

    def __init__(self, share: float, generator: torch.Generator | None) -> None:
        self._share = share
        self._generator = generator

    def __call__(self, x: Tensor) -> Tensor:
        """`x` with its share zeroed and the rest scaled up; `x` itself where there is no generator (serving)."""
        if self._generator is None or self._share == 0:
            return x
        kept = torch.rand(x.shape, generator=self._generator, device=x.device) >= self._share
        return x * kept / (1 - self._share)


def items_of(weights: Weights, projected_IP: Tensor, rows: Tensor | None = None) -> Tensor:
    """[I, D] embeddings of items: their id's and their text's."""
    if rows is None:
        return weights["item_ID"][: projected_IP.shape[0]] + projected_IP @ weights["text_PD"]
    return embedding(rows, weights["item_ID"]) + projected_IP[rows] @ weights["text_PD"]


def interests(weights: Weights, seen: Tokens, content_QTP: Tensor, asked_QT: Tensor, drop: Dropout) -> Tensor:
    """[Q, T+1, D]: the interest after the start and after each token, asking for a like (1) or anything (0)."""
    questions = seen.item_QT.shape[0]
    width = weights["start_D"].shape[0]
    start = weights["start_D"].expand(questions, 1, width)
    x = drop(torch.cat([start, _embedded(weights, seen, content_QTP)], dim=1))
    blocked, lag_TT, page = _attention_frame(seen)
    first = x
    for layer in range(LAYERS):
        x = x + drop(_attend(weights, layer, x, blocked, lag_TT, page))
        inner = layer_norm(x, (width,), weights[f"{layer}.ff_norm_D"], weights[f"{layer}.ff_shift_D"])
        x = x + drop(gelu(inner @ weights[f"{layer}.up_DF"]) @ weights[f"{layer}.down_FD"])
    x = x + _long_term(weights, first, blocked, lag_TT, seen)
    x = x + embedding(asked_QT, weights["asked_KD"])
    return layer_norm(x, (width,), weights["out_norm_D"], weights["out_bias_D"])


def _embedded(weights: Weights, seen: Tokens, content_QTP: Tensor) -> Tensor:
    item_QT, code_QT = seen.item_QT, seen.code_QT
    h = embedding(item_QT.clamp(min=0), weights["item_ID"]) * (item_QT >= 0)[:, :, None]
    h = h + content_QTP @ weights["text_PD"]
    h = h + embedding(kind_of(code_QT), weights["kind_KD"]) + embedding(level_of(code_QT), weights["level_KD"])
    h = h + embedding(liked_of(code_QT).long() + 2 * consumes_of(code_QT).long(), weights["liked_KD"])
    return h + embedding(seen.gap_QT, weights["gap_KD"])


def _attention_frame(seen: Tokens) -> tuple[Tensor, Tensor, Tensor]:
    """Blocked pairs [Q, T+1, T+1], lags [T+1, T+1], pairs that share a timestamp [Q, T+1, T+1]."""
    size = seen.item_QT.shape[1] + 1
    on = seen.item_QT.device
    here = pad(seen.here_QT, (1, 0), value=True)
    future = torch.ones(size, size, dtype=torch.bool, device=on).triu(1)
    blocked = future | ~here[:, None, :]
    position = torch.arange(size, device=on)
    position[1:] += seen.cut
    lag_TT = (position[:, None] - position[None, :]).clamp(min=0)
    time = pad(seen.page_QT, (1, 0), value=-(2**40))
    page = (time[:, :, None] == time[:, None, :]).float()
    return blocked, lag_TT, page


def _attend(weights: Weights, layer: int, x: Tensor, blocked: Tensor, lag_TT: Tensor, page: Tensor) -> Tensor:
    questions, size, width = x.shape
    inner = layer_norm(x, (width,), weights[f"{layer}.norm_D"], weights[f"{layer}.shift_D"])
    qkv = (inner @ weights[f"{layer}.qkv_DE"]).view(questions, size, 3, HEADS, width // HEADS)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    heads = slice(layer * HEADS, (layer + 1) * HEADS)
    lag_HTT = embedding(lag_TT, weights["lag_TH"][:, heads]).permute(2, 0, 1)
    bias = lag_HTT[None] + weights["page_H"][heads][None, :, None, None] * page[:, None]
    score = query @ key.transpose(2, 3) * (width // HEADS) ** -0.5 + bias
    share = torch.softmax(score.masked_fill(blocked[:, None], -1e9), dim=3)
    mixed: Tensor = (share @ value).transpose(1, 2).reshape(questions, size, width) @ weights[f"{layer}.out_DD"]
    return mixed


def _long_term(weights: Weights, h: Tensor, blocked: Tensor, lag_TT: Tensor, seen: Tokens) -> Tensor:
    """Attention pooling: the query is the user's own embedding, the mean of all they did so far."""
    open_QTT = (~blocked).float()
    own = normalize(open_QTT @ h / open_QTT.sum(2, keepdim=True), dim=2)
    score = (own @ weights["pool_query_DD"]) @ h.transpose(1, 2) + embedding(lag_TT, weights["pool_lag_T"])[:, :, 0]
    share = torch.softmax(score.masked_fill(blocked, -1e9), dim=2)
    return (share @ h) @ weights["pool_out_DD"]
