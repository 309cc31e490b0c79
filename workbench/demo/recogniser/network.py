"""The network as it is trained: Whisper's layers under the published weight names, with three short cuts.

1. **Sampled silence.**  The deployed model always sees 1,500 encoder positions, most of them digital silence.  Silent
   positions differ in their position vector only, so a few are drawn at random and each counts as many in every
   attention: its score gets log(silent positions / drawn).  A 3 s utterance then costs a tenth of the full window.
2. **One row for all unused tokens.**  Of 51,865 tokens the corpus uses about two thousand.  The others share one
   vector, whose logit gets log(their number): exactly the full softmax of the exported model, where every unused row
   is that vector.
3. **A helper head** that reads phonemes from the encoder by connectionist temporal classification (Graves et al.,
   ICML 2006) and is thrown away: with it the cross-attention finds the sounds many times sooner.  A second one starts
   it off: it reads at each place the phoneme that would be there if all were equally long (a "flat start").

    network = Network(used=[...token ids...], sounds=53)
"""

import math

import torch
from torch import nn
from torch.nn import functional

from workbench.demo.recogniser import folder, tokens


def sinusoids(length: int, width: int) -> torch.Tensor:
    """Whisper's fixed encoder positions (openai/whisper, ``whisper/model.py``, ``sinusoids``)."""
    step = math.log(10000) / (width // 2 - 1)
    angles = torch.arange(length)[:, None] * torch.exp(-step * torch.arange(width // 2))[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Attention(nn.Module):
    """Multi-head attention over ``memory``, or over the input itself."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(3))
        self.k_proj = nn.Linear(width, width, bias=False)

    def forward(self, x, memory=None, bias=None, causal: bool = False):
        memory = x if memory is None else memory
        query, key, value = self.q_proj(x), self.k_proj(memory), self.v_proj(memory)
        split = [t.view(*t.shape[:2], self.heads, -1).transpose(1, 2) for t in (query, key, value)]
        if bias is not None:
            bias = bias.to(split[0].dtype).expand(len(x), 1, x.shape[1], -1)
        mixed = functional.scaled_dot_product_attention(*split, attn_mask=bias, is_causal=causal)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """An encoder layer, or with ``cross`` a decoder layer."""

    def __init__(self, width: int, heads: int, cross: bool):
        super().__init__()
        self.self_attn, self.self_attn_layer_norm = Attention(width, heads), nn.LayerNorm(width)
        if cross:
            self.encoder_attn, self.encoder_attn_layer_norm = Attention(width, heads), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x, memory=None, bias=None):
        decoder = memory is not None
        own = None if decoder else bias
        x = x + self.self_attn(self.self_attn_layer_norm(x), bias=own, causal=decoder)
        if decoder:
            x = x + self.encoder_attn(self.encoder_attn_layer_norm(x), memory, bias)
        return x + self.fc2(functional.gelu(self.fc1(self.final_layer_norm(x))))


class Encoder(nn.Module):
    def __init__(self, width: int, heads: int, layers: int):
        super().__init__()
        self.conv1 = nn.Conv1d(folder.MELS, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding.from_pretrained(sinusoids(folder.AUDIO_POSITIONS, width))
        self.layers = nn.ModuleList(Layer(width, heads, cross=False) for _ in range(layers))
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, mel, start=None, silent=None):
        """States (n, positions, width) and the attention bias, of ``mel`` (n, frames, 80).

        ``start`` (n,) is the encoder position of the first frame; ``silent`` (n, k) are drawn silent positions, the
        same number for every row.  Without them ``mel`` is the whole window.
        """
        x = functional.gelu(self.conv1(mel.transpose(1, 2)))
        x = functional.gelu(self.conv2(x)).transpose(1, 2)
        count, bias = x.shape[1], None
        if start is None:
            x = x + self.embed_positions.weight[:count]
        else:
            pad = x[:, -2:-1]
            first = torch.where((start > 0)[:, None, None], pad, x[:, :1])  # not at the window's edge, so no edge effect
            x = torch.cat([first, x[:, 1:-1], pad, pad.expand(-1, silent.shape[1], -1)], dim=1)
            places = torch.cat([start[:, None] + torch.arange(count), silent], dim=1)
            x = x + self.embed_positions(places)
            weight = math.log((folder.AUDIO_POSITIONS - count) / silent.shape[1])
            bias = torch.cat([torch.zeros(count), torch.full((silent.shape[1],), weight)])[None, None, None]
        for layer in self.layers:
            x = layer(x, bias=bias)
        return self.layer_norm(x), bias


class Decoder(nn.Module):
    def __init__(self, used: int, width: int, heads: int, layers: int):
        super().__init__()
        self.embed_tokens = nn.Embedding(used + 1, width)  # the last row stands for every unused token
        self.embed_positions = nn.Embedding(folder.TEXT_POSITIONS, width)
        self.layers = nn.ModuleList(Layer(width, heads, cross=True) for _ in range(layers))
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, ids, memory, bias):
        x = self.embed_tokens(ids) + self.embed_positions.weight[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, memory, bias)
        return self.layer_norm(x)


class Network(nn.Module):
    """Whisper over the ``used`` tokens (ascending ids), with a helper head of ``sounds`` phonemes (0 is blank)."""

    def __init__(self, used: list[int], sounds: int, seed: int = 1):
        super().__init__()
        torch.manual_seed(seed)
        self.used = list(used)
        self.encoder = Encoder(folder.WIDTH, folder.HEADS, folder.ENCODER_LAYERS)
        self.decoder = Decoder(len(used), folder.WIDTH, folder.HEADS, folder.DECODER_LAYERS)
        self.helper, self.spread_helper = nn.Linear(folder.WIDTH, sounds), nn.Linear(folder.WIDTH, sounds)
        self.register_buffer("row", torch.full((tokens.VOCABULARY,), len(used)))
        self.row[torch.tensor(self.used)] = torch.arange(len(used))
        nn.init.normal_(self.decoder.embed_tokens.weight, std=0.05)
        nn.init.normal_(self.decoder.embed_positions.weight, std=0.02)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Scores (..., used + 1); the last is all unused tokens together."""
        scores = (states @ self.decoder.embed_tokens.weight.T).float()
        unused = torch.zeros(scores.shape[-1])
        unused[-1] = math.log(tokens.VOCABULARY - len(self.used))
        return scores + unused

    def losses(self, batch: dict) -> dict[str, torch.Tensor]:
        """Mean loss of the next token, mean loss of the helper head a sound, and the share of tokens right;
        ``spread`` is the flat start's loss a position."""
        memory, bias = self.encoder(batch["mel"], batch.get("start"), batch.get("silent"))
        states = self.decoder(self.row[batch["ids"]], memory, bias)
        known = batch["labels"] >= 0
        scores, wanted = self.logits(states[known]), self.row[batch["labels"][known]]
        token = functional.cross_entropy(scores, wanted)
        right = (scores.argmax(-1) == wanted).float().mean()
        sound = self.sound_loss(memory, batch) if len(batch["sounds"]) else 0.0 * self.helper(memory).float().sum()
        places = batch["spread"] >= 0
        even = self.spread_helper(memory[:, : places.shape[1]][places]).float()
        spread = functional.cross_entropy(even, batch["spread"][places]) if len(even) else 0.0 * even.sum()
        return {"token": token, "sound": sound, "spread": spread, "right": right.detach()}

    def sound_loss(self, memory: torch.Tensor, batch: dict) -> torch.Tensor:
        """The helper head's loss a phoneme, over the windows that hold speech."""
        heard = batch["sound_lengths"] > 0
        spoken = self.helper(memory[heard, : batch["mel"].shape[1] // 2]).float().log_softmax(-1).transpose(0, 1)
        lengths = batch["frames"][heard] // 2
        total = functional.ctc_loss(
            spoken, batch["sounds"], lengths, batch["sound_lengths"][heard], zero_infinity=True, reduction="sum"
        )
        return total / len(batch["sounds"])

    def published(self) -> dict[str, torch.Tensor]:
        """The float32 state dictionary under the published names, every token's row written out."""
        state = {
            f"model.{name}": value for name, value in self.state_dict().items() if name.split(".")[0] in ("encoder", "decoder")
        }
        table = state["model.decoder.embed_tokens.weight"]
        state["model.decoder.embed_tokens.weight"] = table[self.row]
        return state
