"""The released model's inference and the training router as plain loops, to compare with.

Written from the description of the method and of the checkpoint format; it imports nothing of the
package. One token after the other, one expert after the other, in the dtype of the weights. The
settings are a dictionary with the names of a released config.json.
"""

import math

import torch

ACTIVATIONS = {
    "silu": lambda x: x * (1 / (1 + torch.exp(-x))),
    "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    "relu": lambda x: x.clamp(min=0),
}


def logits(weights, settings, ids):
    """Logits [T, V] of one text: `weights` by released names, `ids` a list of token ids."""
    hidden = [weights["model.embed_tokens.weight"][token] for token in ids]
    eps = settings["rms_norm_eps"]
    for layer in range(settings["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        own = {
            name.removeprefix(prefix): weight
            for name, weight in weights.items()
            if name.startswith(prefix)
        }
        normed = [norm(h, own["pre_attention_layernorm.weight"], eps) for h in hidden]
        attended = attention(own, settings, normed)
        hidden = [h + a for h, a in zip(hidden, attended, strict=True)]
        normed = [norm(h, own["pre_feedforward_layernorm.weight"], eps) for h in hidden]
        hidden = [
            h + feed_forward(own, settings, layer, n) for h, n in zip(hidden, normed, strict=True)
        ]
    tied = settings.get("tie_word_embeddings")
    head = weights["model.embed_tokens.weight" if tied else "lm_head.weight"]
    return torch.stack([head @ norm(h, weights["model.norm.weight"], eps) for h in hidden])


def norm(x, weight, eps):
    return x / torch.sqrt((x * x).sum() / len(x) + eps) * weight


def linear(own, name, x):
    y = own[f"{name}.weight"] @ x
    return y + own[f"{name}.bias"] if f"{name}.bias" in own else y


def angle(settings, position, pair, width):
    """How far RoPE turns a pair of numbers; theta is 500,000 unless told."""
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    theta = rope.get("rope_theta", settings.get("rope_theta", 500_000.0))
    return position / rope.get("factor", 1.0) / theta ** (2 * pair / width)


def turned(settings, x, position):
    half, out = len(x) // 2, x.clone()
    for pair in range(half):
        turn = angle(settings, position, pair, len(x))
        cosine, sine = math.cos(turn), math.sin(turn)
        out[pair] = x[pair] * cosine - x[pair + half] * sine
        out[pair + half] = x[pair + half] * cosine + x[pair] * sine
    return out


def attention(own, settings, hidden):
    heads = settings["num_attention_heads"]
    shared = heads // (settings.get("num_key_value_heads") or heads)
    width = settings.get("head_dim") or settings["hidden_size"] // heads
    projected = {
        which: [linear(own, f"self_attn.{which}_proj", h).split(width) for h in hidden]
        for which in "qkv"
    }
    out = []
    for t in range(len(hidden)):
        seen = []
        for head in range(heads):
            query = turned(settings, projected["q"][t][head], t)
            keys = [turned(settings, projected["k"][s][head // shared], s) for s in range(t + 1)]
            scores = torch.stack([query @ key for key in keys]) / math.sqrt(width)
            odds = torch.exp(scores - scores.max())
            values = [projected["v"][s][head // shared] for s in range(t + 1)]
            seen.append(sum(o * v for o, v in zip(odds / odds.sum(), values, strict=True)))
        out.append(linear(own, "self_attn.o_proj", torch.cat(seen)))
    return out


def mlp(own, settings, name, x):
    gate = ACTIVATIONS[settings.get("hidden_act", "silu")](linear(own, f"{name}gate_proj", x))
    return linear(own, f"{name}down_proj", gate * linear(own, f"{name}up_proj", x))


def feed_forward(own, settings, layer, x):
    counts = settings.get("num_experts_per_layer")
    experts = counts[layer] if counts else settings["num_experts"]
    if experts == 0:
        return mlp(own, settings, "mlp.", x)
    used = weigh(own["mlp.gate.weight"] @ x, experts, settings)
    return sum(w * mlp(own, settings, f"mlp.experts.{e}.", x) for e, w in used.items())


def weigh(logit, experts, settings):
    """Expert id -> gate weight of one token: a softmax over the routed and one over the shared."""
    shared = settings["num_shared_experts"]
    routed = experts - shared
    slots = min(settings["num_experts_per_tok"], experts) - shared
    scores = softmax(logit[:routed])
    best = sorted(range(routed), key=lambda e: -float(scores[e]))[:slots]
    used = {e: scores[e] for e in best}
    if settings.get("norm_topk_prob"):
        total = sum(used.values())
        used = {e: weight / total for e, weight in used.items()}
    for e, weight in zip(range(routed, experts), softmax(logit[routed:]), strict=True):
        used[e] = weight
    return used


def softmax(x):
    if not len(x):
        return x
    odds = torch.exp(x - x.max())
    return odds / odds.sum()


def routing(logits, documents, sizes, slots, subset=None):
    """The training router on one row: pools, chosen experts with weights, and the two losses.

    `logits` [T, R] of the routed experts, the document of each token (None: padding, which takes
    part in nothing), a pool size a document, `slots` routed experts a token, the experts that are
    there (None: all).
    """
    T, R = logits.shape
    there = set(range(R)) if subset is None else set(subset)
    pools = {}
    for document in {d for d in documents if d is not None}:
        mass = [0.0] * R
        for t in range(T):
            if documents[t] == document:
                for e, p in masked_softmax(logits[t], there).items():
                    mass[e] += float(p)
        ranked = sorted(there, key=lambda e: (-mass[e], e))
        pools[document] = set(ranked[: sizes[document]])
    chosen, counts, mean, squares = [], [0] * R, [0.0] * R, 0.0
    real = [t for t in range(T) if documents[t] is not None]
    for t in real:
        scores = masked_softmax(logits[t], pools[documents[t]])
        best = sorted(scores, key=lambda e: -float(scores[e]))[:slots]
        chosen.append({e: float(scores[e]) for e in best})
        for e in best:
            counts[e] += 1
        for e, p in scores.items():
            mean[e] += float(p) / len(real)
        squares += math.log(sum(math.exp(float(logits[t][e])) for e in scores)) ** 2
    balancing = R * sum(c / (slots * len(real)) * p for c, p in zip(counts, mean, strict=True))
    return {
        "pools": pools,
        "chosen": chosen,
        "counts": counts,
        "balancing": balancing,
        "z": squares / len(real),
    }


def masked_softmax(logit, allowed):
    odds = {e: math.exp(float(logit[e])) for e in sorted(allowed)}
    total = sum(odds.values())
    return {e: o / total for e, o in odds.items()}
