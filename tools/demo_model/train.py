"""Train the demo model on one GPU and write it as an official checkpoint directory.

    python3 train.py --tokens tokens.npz --output models/demo

The schedule: windows of 512 tokens, then, for the last steps, of 2048 (four times
the original length, what YaRN is configured for). YaRN is active throughout. The best weights on the held-out text are kept.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import checkpoint
from corpus import BOS_ID
from model import Config, DeepseekV3
from optim import learning_rate, make_optimizers

LOOKAHEAD = 2  # a window of T inputs needs T + 2 tokens: the MTP layer predicts two ahead
BOS_SHARE = 0.5  # of the windows start with BOS, so the model is at home with and without it
EVAL_WINDOW = 512
EVAL_BATCH = 32


@dataclass
class Losses:
    """Mean negative log-likelihoods per token, in nats."""

    main: float
    mtp: float


def windows(stream: Tensor, length: int, batch: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Endless shuffled batches [batch, length + 2]; every epoch cuts the stream elsewhere."""
    span = torch.arange(length + LOOKAHEAD, device=stream.device)
    while True:
        offset = int(torch.randint(length, (), generator=rng))
        starts = torch.arange(offset, stream.numel() - length - LOOKAHEAD, length)
        starts = starts[torch.randperm(starts.numel(), generator=rng)]
        for part in starts.split(batch):
            if part.numel() < batch:
                break
            window = stream[part.to(stream.device)[:, None] + span]
            with_bos = torch.rand(batch, generator=rng) < BOS_SHARE
            window[with_bos.to(stream.device), 0] = BOS_ID
            yield window


def losses(model: DeepseekV3, window: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy of the main head and of the MTP head (equation 24), and the expert loads."""
    with torch.autocast(window.device.type, torch.bfloat16):
        main, draft, loads = model(window[:, :-1])
    main_loss = F.cross_entropy(main.flatten(0, 1).float(), window[:, 1:-1].flatten())
    mtp_loss = F.cross_entropy(draft.flatten(0, 1).float(), window[:, 2:].flatten())
    return main_loss, mtp_loss, loads


@torch.no_grad()
def evaluate(model: DeepseekV3, stream: Tensor) -> Losses:
    """Losses over the held-out stream in windows without BOS; the last partial one is left out."""
    cuts = stream[:-LOOKAHEAD].unfold(0, EVAL_WINDOW, EVAL_WINDOW).shape[0]
    span = torch.arange(EVAL_WINDOW + LOOKAHEAD, device=stream.device)
    starts = torch.arange(cuts, device=stream.device) * EVAL_WINDOW
    sums = torch.zeros(2, device=stream.device)
    for part in starts.split(EVAL_BATCH):
        main, mtp, _ = losses(model, stream[part[:, None] + span])
        sums += torch.stack((main, mtp)) * part.numel()
    main, mtp = (sums / cuts).tolist()
    return Losses(main, mtp)


@torch.no_grad()
def balance(model: DeepseekV3, loads: Tensor, speed: float) -> None:
    """Auxiliary-loss-free balancing: raise the bias of underloaded experts (section 2.1.2)."""
    steps = (loads.mean(1, keepdim=True) - loads).sign() * speed
    for gate, step in zip(model.gates(), steps):
        gate.e_score_correction_bias += step


class Log:
    """JSON lines to a file and to standard output."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("w", encoding="utf-8")

    def write(self, record: dict[str, object]) -> None:
        line = json.dumps(record)
        print(line, flush=True)
        self.file.write(line + "\n")
        self.file.flush()


def train(args: argparse.Namespace, log: Log) -> dict[str, Tensor]:
    """Run the whole schedule; the state dict with the lowest held-out loss of the main head."""
    torch.manual_seed(args.seed)
    rng = torch.Generator().manual_seed(args.seed)
    device = torch.device(args.device)
    tokens = np.load(args.tokens)
    stream, valid = (
        torch.from_numpy(tokens[part].astype(np.int64)).to(device) for part in ("train", "valid")
    )
    model = DeepseekV3(Config.load(args.config), max_length=args.long_length).to(device)
    optimizers = make_optimizers(model, args.lr, args.weight_decay)
    compiled = torch.compile(losses, dynamic=False, disable=device.type == "cpu")

    short_steps = round(args.steps * (1 - args.long_share))
    batches = windows(stream, args.length, args.batch_tokens // args.length, rng)
    best, best_state = float("inf"), {}
    log.write(
        {
            "seed": args.seed,
            "command": shlex.join(["python3", *sys.argv]),
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "parameters": sum(p.numel() for p in model.parameters()),
            "train_tokens": stream.numel(),
            "valid_tokens": valid.numel(),
        }
    )
    start = time.monotonic()
    for step in range(args.steps):
        if step == short_steps:
            batches = windows(stream, args.long_length, args.batch_tokens // args.long_length, rng)
        lr = learning_rate(step, args.steps, args.warmup, args.lr)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
        # Lambda of equation 25 and the bias update speed fall late in training (section 4.2).
        mtp_weight = 0.3 if step < 0.67 * args.steps else 0.1
        main, mtp, loads = compiled(model, next(batches))
        (main + mtp_weight * mtp).backward()
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad(set_to_none=True)
        balance(model, loads, args.bias_speed if step < 0.95 * args.steps else 0.0)

        if (step + 1) % args.eval_every == 0 or step + 1 == args.steps:
            held_out = evaluate(model, valid)
            if held_out.main < best:
                best = held_out.main
                best_state = {name: t.clone() for name, t in model.state_dict().items()}
            log.write(
                {
                    "step": step + 1,
                    "tokens": (step + 1) * args.batch_tokens,
                    "lr": round(lr, 7),
                    "train_loss": round(main.item(), 4),
                    "train_mtp_loss": round(mtp.item(), 4),
                    "valid_loss": round(held_out.main, 4),
                    "valid_mtp_loss": round(held_out.mtp, 4),
                    "max_load": round((loads.max() * loads.shape[1]).item(), 3),
                    "seconds": round(time.monotonic() - start, 1),
                }
            )
    return best_state


def main() -> None:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=Path, required=True, help="written by corpus.py")
    parser.add_argument("--output", type=Path, required=True, help="model directory")
    parser.add_argument("--config", type=Path, default=here / "config.json")
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--batch-tokens", type=int, default=32768)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--long-length", type=int, default=2048)
    parser.add_argument("--long-share", type=float, default=0.1, help="of the steps, at the end")
    parser.add_argument("--lr", type=float, default=8e-3)
    parser.add_argument("--weight-decay", type=float, default=1.5)
    parser.add_argument("--bias-speed", type=float, default=1e-3)
    parser.add_argument("--eval-every", type=int, default=100)
    parser.add_argument("--seed", type=int, default=20261121)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()

    args.output.mkdir(parents=True, exist_ok=True)
    state = train(args, Log(args.output / "training_log.jsonl"))
    checkpoint.save(args.output, state, args.config, args.shards)


if __name__ == "__main__":
    main()
