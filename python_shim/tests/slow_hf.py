# SPDX-License-Identifier: Apache-2.0
"""Pruning of a Hugging Face model as it is meant, slowly: one prompt at a time, without padding and
without a cache, every step from its beginning, in PyTorch's operations and Python's loops. Nothing
of tailcut is used here."""
import inspect
import math
from dataclasses import dataclass, field

import torch
from transformers import LlamaModel

#: what this version of transformers calls its cache
CACHE = ("cache" if "cache" in inspect.signature(LlamaModel.forward).parameters
         else "past_key_values")


# ------------------------------------------------------------------------------------------ choices
def cosines(rows, vector):
    rows, vector = rows.double(), vector.double()
    return [float(row @ vector / (max(row.norm(), 1e-8) * max(vector.norm(), 1e-8)))
            for row in rows]


def mean_direction(rows):
    return sum(row.double() / row.double().norm() for row in rows) / len(rows)


def changes(rows, lag):
    """LAG: each row against the one a frame before."""
    return [-1.0 if i < lag else cosines(rows[i:i + 1], rows[i - lag])[0] for i in range(len(rows))]


def best(scores, k, low=False):
    ranked = sorted(range(len(scores)), key=lambda i: (scores[i] if low else -scores[i], i))
    return sorted(ranked[:k])


def share(ratio):
    return lambda scores: max(1, math.ceil(len(scores) * ratio - 1e-9))


def otsu(scores):
    """The split of the sorted scores with the greatest variance between its two sides."""
    p = sorted((round(s * 2 ** 30) >> 10 for s in scores), reverse=True)
    n, total, head, found, most = len(p), sum(p), 0, len(p), 0.0
    for k in range(1, n):
        head += p[k - 1]
        d = float(n * head - k * total)
        if d * d / float(k * (n - k)) > most:
            most, found = d * d / float(k * (n - k)), k
    return found


# ------------------------------------------------------------------------------------------ merging
def similarities(rows):
    """NOVELTY's: rows in 8 bits, p_ij = rint(2^20 cos)."""
    quantized = []
    for row in rows.float():
        exponent = math.floor(math.log2(float(row @ row) / len(row)))
        quantized.append((row * 2.0 ** (4 - (exponent >> 1))).round().clamp(-127, 127).double())
    norms = [q.norm() for q in quantized]
    return [[round(float(a @ b / (na * nb)) * 2 ** 20) for b, nb in zip(quantized, norms)]
            for a, na in zip(quantized, norms)]


def merged(compared, rows, kept, window=64):
    """(rows, sizes) of `kept`: the others join the kept row of their window that is most like them,
    weighing the fourth power of their cosine."""
    n, p = len(rows), similarities(compared)
    windows = -(-n // window)
    of = [next(b for b in range(windows) if i < (b + 1) * n // windows) for i in range(n)]
    members = {j: [] for j in kept}
    for i in range(n):
        mates = [j for j in kept if of[j] == of[i]]
        if i not in members and mates:
            members[min(mates, key=lambda j: (-p[i][j], j))].append(i)
    result = []
    for j in kept:
        weights = {i: (max(p[i][j], 0) / 2 ** 20) ** 4 for i in members[j]} | {j: 1.0}
        result.append(sum(rows[i].double() * w for i, w in weights.items()) / sum(weights.values()))
    return torch.stack(result).to(rows.dtype), [1 + len(members[j]) for j in kept]


# --------------------------------------------------------------------------------------- generation
@dataclass
class Prompt:
    """What the language model is given of one prompt after stage 1."""

    embeds: list = field(default_factory=list)     # [D] each
    positions: list = field(default_factory=list)  # a number, or one of each plane
    visual: list = field(default_factory=list)     # is it a visual token
    sizes: list = field(default_factory=list)      # how many tokens it stands for
    deepstack: list = field(default_factory=list)  # by layer: {row: what is added behind it}

    def add(self, embed, position, visual=False, size=1):
        self.embeds.append(embed)
        self.positions.append(position)
        self.visual.append(visual)
        self.sizes.append(size)


def prompt_of(model, ids, positions, features, kept, sizes=None, deepstack=(), placeholders=()):
    """ids [T]; features and kept: one entry for each feature in the order of the placeholders."""
    prompt, number = Prompt(deepstack=[{} for _ in deepstack]), 0
    embed = model.get_input_embeddings()
    for t, token in enumerate(ids.tolist()):
        if token not in placeholders:
            prompt.add(embed(ids[t]), positions[..., t])
            continue
        if kept[number]:
            for layer, rows in enumerate(deepstack):
                prompt.deepstack[layer][len(prompt.embeds)] = rows[number]
            size = 1 if sizes is None else sizes[number]
            prompt.add(features[number], positions[..., t], True, size)
        number += 1
    assert number == len(features)
    return prompt


def drop(hidden, prompt, keeps):
    """The rows of a layer's input that stay: stage 2, MEAN_COSINE."""
    first = prompt.visual.index(True)
    visual = [i for i, it_is in enumerate(prompt.visual) if it_is]
    text = [i for i, it_is in enumerate(prompt.visual) if not it_is and i > first]
    scores = cosines(hidden[visual], mean_direction(hidden[text]))
    stay = {visual[i] for i in best(scores, keeps(scores))}
    return [i for i in range(len(hidden)) if not prompt.visual[i] or i in stay]


@torch.no_grad()
def greedy(model, prompt, steps, layer=None, keeps=None, biased=False):
    """(tokens, rows of the prompt that are left)."""
    language, embed = model.model.language_model, model.get_input_embeddings()
    rows, tokens, stay = len(prompt.embeds), [], list(range(len(prompt.embeds)))
    positions = torch.stack(prompt.positions, -1)
    planes = positions.dim() == 2
    for _ in range(steps):
        new = torch.tensor(tokens, dtype=torch.long)
        hidden = torch.cat([torch.stack(prompt.embeds), embed(new)])
        places = torch.cat([positions, positions[..., -1:] + 1 + torch.arange(len(tokens))], -1)
        cos, sin = language.rotary_emb(hidden[None], places[:, None] if planes else places[None])
        sizes = torch.tensor(prompt.sizes + [1] * len(tokens), dtype=torch.float32)
        total = len(hidden)
        seen = torch.ones(total, total).tril().bool()
        there = list(range(total))
        for number, block in enumerate(language.layers):
            if number == layer:
                if not tokens:
                    stay = drop(hidden, prompt, keeps)
                there = stay + list(range(rows, total))
                hidden, cos, sin = hidden[there], cos[:, there], sin[:, there]
            mask = seen.clone()
            if layer is not None:  # what leaves is not in the cache when the next token comes
                gone = [i for i in range(rows) if i not in stay]
                mask[rows:, gone] = False
            mask = torch.where(mask, sizes.log() if biased else 0.0, torch.finfo(torch.float32).min)
            hidden = block(hidden[None], attention_mask=mask[there][:, there][None, None],
                           position_embeddings=(cos, sin))[0]
            for row, more in dict(enumerate(prompt.deepstack)).get(number, {}).items():
                hidden[row] += more
        tokens.append(int(model.lm_head(language.norm(hidden[-1:])).argmax()))
    return tokens, len(stay)


def left_padded(prompts, pad=0):
    """(input_ids, attention_mask) of prompts of different lengths."""
    longest = max(len(ids) for ids in prompts)
    ids = torch.full((len(prompts), longest), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt):] = prompt
        mask[row, longest - len(prompt):] = 1
    return ids, mask
