"""Reference figures of a demo checkpoint, computed by transformers in float32 (eager attention).

    python3 evaluate.py --model models/demo --valid valid.txt

Writes MODEL/reference.json, which an engine can be held against, and prints samples. It also checks
that model.py computes the same logits as transformers, and that its MTP layer is transformers' one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from tokenizers import Tokenizer
from torch import Tensor
from transformers import DeepseekV3ForCausalLM
from transformers.modeling_layers import MtpModel
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3PreTrainedModel

import checkpoint
from corpus import BOS_ID, EOS_ID
from model import Config, DeepseekV3

BATCH = 16
PROMPTS = (
    "Once upon a time there was",
    "The children ran down to the",
    '"I do not know," said the old man, "but',
    "It was a cold and windy night, and",
    "Holmes looked at the letter, and then",
)
GREEDY_TOKENS = 32  # of each greedy text, what an engine is asked to reproduce
TEXT_TOKENS = 200
PREFIX_TOKENS = 64
PREFIX_POSITIONS = (0, 15, 31, 47, 63)
MTP_PREFIX_POSITIONS = (0, 15, 31, 47, 62)  # 62 is the last whose next token is in the prefix
TEMPERATURE = 0.7


@dataclass(frozen=True)
class Protocol:
    """How a text is cut for perplexity.

    The whole text is tokenised once, without BOS. Windows hold `window` positions and start every
    `stride` text tokens; each is a fresh sequence from position 0. With `prepend_bos`, position 0
    of every window is BOS and `window - 1` text tokens follow. The last window ends with the text
    and may be shorter; none starts after one that reached the end. A window scores the text tokens
    that have a predecessor in it and that no earlier window scored.
    """

    window: int
    stride: int
    prepend_bos: bool

    @property
    def name(self) -> str:
        suffix = "_bos" if self.prepend_bos else ""
        return f"window{self.window}_stride{self.stride}{suffix}"


PROTOCOLS = (
    Protocol(512, 512, prepend_bos=False),
    Protocol(512, 256, prepend_bos=False),
    Protocol(512, 511, prepend_bos=True),
)


def load_transformers(directory: Path, device: str) -> tuple[DeepseekV3ForCausalLM, MtpModel]:
    """The checkpoint in float32, and its MTP layer; BF16 weights are widened exactly."""
    num_layers = Config.load(directory / "config.json").num_hidden_layers
    # transformers knows the MTP layer by the published models' layer number only.
    mtp_names = [rf"model\.layers\.{num_layers}\..*"]
    DeepseekV3PreTrainedModel._keys_to_ignore_on_load_unexpected = mtp_names
    model = DeepseekV3ForCausalLM.from_pretrained(
        str(directory),
        dtype=torch.float32,
        attn_implementation="eager",
        experts_implementation="eager",
    )
    model = model.to(device).eval()
    return model, MtpModel.from_pretrained(model, device_map={"": device}).eval()


@torch.no_grad()
def mtp_logits(main: DeepseekV3ForCausalLM, mtp: MtpModel, ids: Tensor) -> tuple[Tensor, Tensor]:
    """ids [B, T + 1] -> main logits [B, T, V] and MTP logits [B, T, V], through transformers."""
    hidden = main.model(ids[:, :-1]).last_hidden_state
    embedding = main.model.embed_tokens(ids[:, 1:])
    positions = torch.arange(hidden.shape[1], device=ids.device)[None]
    masked = torch.full((hidden.shape[1],) * 2, -math.inf, device=ids.device).triu(1)
    draft = mtp.layers[0](
        embedding,
        hidden,
        position_embeddings=main.model.rotary_emb(hidden, position_ids=positions),
        attention_mask=masked[None, None],
        position_ids=positions,
        past_key_values=None,
    )
    return main.lm_head(hidden), main.lm_head(draft)


def cut(ids: Tensor, protocol: Protocol) -> Iterator[tuple[Tensor, int]]:
    """Windows of `ids` and how many of each one's last tokens it scores."""
    bos = int(protocol.prepend_bos)
    scored_to = 1 - bos  # without BOS the very first token has no predecessor
    for start in range(0, ids.numel(), protocol.stride):
        end = min(start + protocol.window - bos, ids.numel())
        window = F.pad(ids[start:end], (bos, 0), value=BOS_ID)
        # With stride = window the first token of a window has no predecessor in it either.
        first = max(scored_to, start + 1 - bos)
        yield window, end - first
        scored_to = end
        if end == ids.numel():
            break


@torch.no_grad()
def perplexity(
    model: DeepseekV3ForCausalLM, ids: Tensor, num_bytes: int, protocol: Protocol
) -> dict[str, object]:
    """Negative log-likelihood of a text under `protocol`, summed in float64."""
    total, tokens = 0.0, 0
    for window, count in cut(ids, protocol):
        logits = model(window[None]).logits[0, :-1]
        losses = F.cross_entropy(logits, window[1:], reduction="none").double()
        total += losses[losses.numel() - count :].sum().item()
        tokens += count
    return {
        "window": protocol.window,
        "stride": protocol.stride,
        "prepend_bos": protocol.prepend_bos,
        "tokens": tokens,
        "nll": total,
        "perplexity": math.exp(total / tokens),
        "bits_per_byte": total / math.log(2) / num_bytes,
    }


@dataclass(frozen=True)
class Text:
    """A continuation of BOS + prompt; `gaps` are between the two best logits at every step."""

    prompt: str
    prompt_ids: list[int]
    ids: list[int]
    gaps: list[float]


@torch.no_grad()
def generate(
    model: DeepseekV3ForCausalLM,
    tokenizer: Tokenizer,
    prompt: str,
    count: int,
    temperature: float = 0.0,
) -> Text:
    """`count` further tokens through the KV cache, not stopping at EOS."""
    prompt_ids = [BOS_ID, *tokenizer.encode(prompt, add_special_tokens=False).ids]
    fed = torch.tensor([prompt_ids], device=model.device)
    cache, ids, gaps = None, [], []
    for _ in range(count):
        out = model(fed, past_key_values=cache, use_cache=True)
        cache, logits = out.past_key_values, out.logits[0, -1]
        best, second = logits.topk(2).values.tolist()
        if temperature:
            fed = (logits / temperature).softmax(-1).multinomial(1)[None]
        else:
            fed = logits.argmax()[None, None]
        ids.append(int(fed))
        gaps.append(best - second)
    return Text(prompt, prompt_ids, ids, gaps)


def greedy_references(texts: list[Text], tokenizer: Tokenizer) -> list[dict[str, object]]:
    return [
        {
            "prompt": text.prompt,
            "prompt_ids": text.prompt_ids,
            "ids": text.ids[:GREEDY_TOKENS],
            "text": tokenizer.decode(text.ids[:GREEDY_TOKENS], skip_special_tokens=False),
            "min_logit_gap": min(text.gaps[:GREEDY_TOKENS]),
        }
        for text in texts
    ]


def top_five(logits: Tensor, positions: tuple[int, ...]) -> list[dict[str, object]]:
    top = logits[list(positions)].topk(5)
    return [
        {"position": position, "top_ids": ids.tolist(), "top_logits": values.tolist()}
        for position, ids, values in zip(positions, top.indices, top.values)
    ]


def prefix_reference(model: DeepseekV3ForCausalLM, mtp: MtpModel, ids: Tensor) -> dict[str, object]:
    """The five largest logits at a few positions of the text's beginning, fed without BOS.

    The MTP entry at position i has been given token i + 1 of the prefix and predicts token i + 2.
    """
    prefix = ids[: PREFIX_TOKENS + 1]
    main, draft = mtp_logits(model, mtp, prefix[None])
    return {
        "ids": prefix[:PREFIX_TOKENS].tolist(),
        "main": top_five(main[0], PREFIX_POSITIONS),
        "mtp": top_five(draft[0], MTP_PREFIX_POSITIONS),
    }


def acceptance(main: Tensor, draft: Tensor) -> Tensor:
    """Where the MTP head's choice for token i + 2 is the main head's, of logits [B, T, V]."""
    return draft[:, :-1].argmax(-1) == main[:, 1:].argmax(-1)


@torch.no_grad()
def mtp_reference(
    model: DeepseekV3ForCausalLM, mtp: MtpModel, ids: Tensor, texts: list[Text]
) -> dict[str, object]:
    """Acceptance of the MTP head's drafts, given the true next token.

    On the held-out text (full windows of 512 without BOS), and on the model's own greedy texts,
    which is the rate that greedy speculative decoding sees.
    """
    window = PROTOCOLS[0].window
    accepted = total = 0
    nll = 0.0
    for batch in ids[: ids.numel() // window * window].view(-1, window).split(BATCH):
        main, draft = mtp_logits(model, mtp, batch)
        agree = acceptance(main, draft)
        accepted += agree.sum().item()
        total += agree.numel()
        targets = batch[:, 2:]
        nll += F.cross_entropy(draft[:, :-1].transpose(1, 2), targets, reduction="sum").item()
    own = []
    for text in texts:
        sequence = torch.tensor([text.prompt_ids + text.ids], device=ids.device)
        agree = acceptance(*mtp_logits(model, mtp, sequence))
        own += agree[0, len(text.prompt_ids) - 1 :].tolist()
    return {
        "valid_acceptance": accepted / total,
        "valid_positions": total,
        "valid_loss": nll / total,
        "greedy_text_acceptance": sum(own) / len(own),
        "greedy_text_positions": len(own),
    }


@torch.no_grad()
def agreement(
    directory: Path, model: DeepseekV3ForCausalLM, mtp: MtpModel, ids: Tensor
) -> dict[str, float]:
    """Largest difference of logits between model.py and transformers, both in float32."""
    config, state = checkpoint.load(directory)
    ours = DeepseekV3(config, max_length=1024).to(ids.device)
    ours.load_state_dict(state)
    batch = ids[: 4 * 513].view(4, 513)
    main, draft, _ = ours(batch)
    main_reference, draft_reference = mtp_logits(model, mtp, batch)
    return {
        "main_max_abs": (main - main_reference).abs().max().item(),
        "mtp_max_abs": (draft - draft_reference).abs().max().item(),
        "logits_rms": main_reference.pow(2).mean().sqrt().item(),
    }


def print_sample(text: Text, tokenizer: Tokenizer, temperature: float) -> None:
    ids = text.ids[: text.ids.index(EOS_ID)] if EOS_ID in text.ids else text.ids
    print(f"--- temperature {temperature}\n{text.prompt}{tokenizer.decode(ids)}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="model directory")
    parser.add_argument("--valid", type=Path, required=True, help="valid.txt")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    torch.set_float32_matmul_precision("highest")
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    content = args.valid.read_bytes()
    text_ids = tokenizer.encode(content.decode("utf-8"), add_special_tokens=False).ids
    ids = torch.tensor(text_ids, device=args.device)
    model, mtp = load_transformers(args.model, args.device)
    texts = [generate(model, tokenizer, prompt, TEXT_TOKENS) for prompt in PROMPTS]
    reference = {
        "made_with": {
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
            "dtype": "float32",
            "attention": "eager",
        },
        "text": {
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "tokens": len(text_ids),
            "first_ids": text_ids[:8],
            "last_ids": text_ids[-8:],
        },
        "perplexity": {p.name: perplexity(model, ids, len(content), p) for p in PROTOCOLS},
        "greedy": greedy_references(texts, tokenizer),
        "prefix_logits": prefix_reference(model, mtp, ids),
        "mtp": mtp_reference(model, mtp, ids, texts),
        "model_py_against_transformers": agreement(args.model, model, mtp, ids),
    }
    checkpoint.write_json(args.model / "reference.json", reference)
    for key in ("perplexity", "mtp", "model_py_against_transformers"):
        print(json.dumps(reference[key], indent=1))
    torch.manual_seed(0)
    for text in texts:
        print_sample(text, tokenizer, 0.0)
        sampled = generate(model, tokenizer, text.prompt, TEXT_TOKENS, TEMPERATURE)
        print_sample(sampled, tokenizer, TEMPERATURE)


if __name__ == "__main__":
    main()
