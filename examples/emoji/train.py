"""Train the emoji model.

    python examples/emoji/train.py SCRATCH RUN [--minutes 90] [--device cuda]

SCRATCH is build_data.py's folder, RUN where this run keeps its vocabulary, checkpoint.pt and curve.jsonl. Started again
with the same RUN it goes on from the last checkpoint.

Each step takes N distinct names, two vendors' pictures of each, the name itself and one sampled caption:
- pictures against texts within the batch, both ways: CLIP's loss, for each of the two pictures and two texts;
- pictures, and texts, against one learnt anchor per training name. The anchors give a small batch every negative at
  once and pull different vendors' pictures of one emoji together; they are thrown away afterwards.
The learning rate warms up, stays, and falls linearly to zero over the last 30% of the steps. With --minutes the fall
begins as soon as it must for the run to end in time.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from pathlib import Path

# On a busy machine threads that spin at every barrier take the time of those still working. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import bpe
import torch
import torch.nn.functional as F
from augment import augment, normalise
from dataset import HELD_OUT_VENDOR, Batches, EmojiData, Pictures
from network import image_embeddings, make_config, text_embeddings
from retrieval import recall
from torch import Tensor, nn

from clip_core import CLIPTokenizerFast
from clip_torch import CLIPModel

MERGES = 1534
COOLDOWN = 0.3
ANCHOR_SCALE = 16.0
MAX_LOGIT_SCALE = math.log(100)


class Threads:
    """The number of threads, chosen by trial: on a busy machine two threads that wait for each other can lose to one.

    Every PERIOD steps, TRIAL steps are timed with each number from 1 to `most`. Another thread is used when it makes
    the steps GAIN times as quick; otherwise it would mostly take time from others.
    """

    PERIOD, TRIAL, GAIN = 100, 4, 1.35

    def __init__(self, most: int, fixed: bool) -> None:
        self.most, self.fixed, self.count = most, fixed, 0
        self.times: dict[int, list[float]] = {}
        torch.set_num_threads(most if fixed else 1)

    def after_step(self, seconds: float) -> None:
        if self.fixed or self.most == 1:
            return
        self.times.setdefault(torch.get_num_threads(), []).append(seconds)
        self.count = (self.count + 1) % self.PERIOD
        if self.count == 0:
            self.times.clear()
        elif self.count == self.most * self.TRIAL:
            chosen, best = 1, self.median(1)
            for number in range(2, self.most + 1):
                if self.median(number) * self.GAIN ** (number - chosen) <= best:
                    chosen, best = number, self.median(number)
            torch.set_num_threads(chosen)
            return
        if self.count < self.most * self.TRIAL:
            torch.set_num_threads(1 + self.count // self.TRIAL)

    def median(self, number: int) -> float:
        return sorted(self.times[number])[self.TRIAL // 2]


class Trainer:
    """Model, anchors, optimiser, average, data order: all that is saved."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.device = args, args.device
        self.data = EmojiData(args.scratch, args.held_out_vendor, tuple(args.also_out))
        tokenizer = args.run / "tokenizer"
        if not (tokenizer / "vocab.json").exists():
            bpe.write_vocabulary(tokenizer, bpe.learn(self.data.captions(), MERGES))
        self.tokenizer = CLIPTokenizerFast.from_pretrained(tokenizer)
        torch.manual_seed(args.seed)
        self.rng = random.Random(args.seed)
        self.generator = torch.Generator(args.device).manual_seed(args.seed)
        config = make_config(len(self.tokenizer), args.vision_layers, args.patch)
        self.model = CLIPModel(config).to(args.device)
        self.average = CLIPModel(config).to(args.device).eval()
        self.average.load_state_dict(self.model.state_dict())
        names = len(self.data.train_names)
        self.position = {name: number for number, name in enumerate(self.data.train_names.tolist())}
        self.anchors = nn.Parameter(torch.randn(names, config.projection_dim, device=args.device) * 0.05)
        self.batches = Batches(self.data, args.names, self.rng)
        self.optimizer = self.make_optimizer()
        self.step, self.seconds, self.cooldown_from, self.total = 0, 0.0, None, args.steps
        self.rgba = self.data.rgba.to(args.device)
        self.flippable = torch.from_numpy(self.data.flippable[self.data.emoji]).to(args.device)
        if (args.run / "checkpoint.pt").exists():
            self.load(args.run / "checkpoint.pt")

    def make_optimizer(self) -> torch.optim.AdamW:
        """No decay on norms, biases, single vectors and the logit scale."""
        parameters = [*self.model.named_parameters(), ("anchors", self.anchors)]
        plain = [p for name, p in parameters if p.ndim < 2 or "norm" in name]
        decayed = [p for name, p in parameters if not (p.ndim < 2 or "norm" in name)]
        groups = [{"params": decayed, "weight_decay": self.args.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.args.lr, betas=(0.9, 0.98), eps=1e-6, fused=True)

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids, each row padded behind its end token to the longest."""
        return self.tokenizer(texts, truncation=True, max_length=bpe.CONTEXT, padding=True)["input_ids"]

    def autocast(self) -> torch.autocast:
        return torch.autocast(torch.device(self.device).type, torch.bfloat16)

    def rate(self) -> float:
        """Learning rate of the current step; decides, too, when the fall to zero begins."""
        args = self.args
        if self.cooldown_from is None:
            # The fall lasts COOLDOWN of the run, so it takes COOLDOWN / (1 - COOLDOWN) of the time used so far.
            late = args.minutes and self.seconds / (1 - COOLDOWN) >= 60 * args.minutes
            if late or self.step >= (1 - COOLDOWN) * args.steps:
                self.cooldown_from = self.step
                self.total = max(self.step + 1, round(self.step / (1 - COOLDOWN)))
        if self.cooldown_from is not None:
            return args.lr * (self.total - self.step) / (self.total - self.cooldown_from)
        return args.lr * min(1.0, (self.step + 1) / args.warmup)

    def loss(self, names: list[int], rows: list[int]) -> Tensor:
        args, count = self.args, len(names)
        pixels = augment(self.rgba[rows], self.flippable[rows], 48, self.generator)
        labels = self.encode([self.data.labels[name] for name in names])
        captions = self.encode([self.data.caption(name, self.rng) for name in names])
        with self.autocast():
            images = image_embeddings(self.model, pixels, args.keep, self.generator)
            # Apart, because names are much shorter than captions: less padding.
            texts = torch.cat([text_embeddings(self.model, ids) for ids in (labels, captions)])
        own = torch.arange(count, device=self.device)
        pairs = self.model.logit_scale.exp() * images @ texts.T
        contrast = torch.zeros((), device=self.device)
        for logits in [part for half in pairs.split(count) for part in half.split(count, 1)]:
            for direction in (logits, logits.T):
                contrast = contrast + F.cross_entropy(direction, own, label_smoothing=args.smoothing) / 8
        anchors = ANCHOR_SCALE * F.normalize(self.anchors, dim=-1).T
        target = torch.tensor([self.position[name] for name in names], device=self.device).repeat(2)
        for embeddings, weight in ((images, args.image_anchor), (texts, args.text_anchor)):
            contrast = contrast + weight * F.cross_entropy(embeddings @ anchors, target, label_smoothing=args.smoothing)
        return contrast

    def train_step(self) -> float:
        names, rows = self.batches.next()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        loss = self.loss(names, rows)
        loss.backward()
        parameters = [*self.model.parameters(), self.anchors]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
            decay = min(self.args.average, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        self.step += 1
        return float(loss.detach())

    def state(self) -> dict:
        return {
            "model": self.model.state_dict(), "average": self.average.state_dict(), "anchors": self.anchors.detach(),
            "optimizer": self.optimizer.state_dict(), "generator": self.generator.get_state(),
            "rng": self.rng.getstate(), "queue": self.batches.queue, "step": self.step, "seconds": self.seconds,
            "cooldown_from": self.cooldown_from, "total": self.total, "config": self.model.config.to_dict(),
            "arguments": {key: str(value) for key, value in vars(self.args).items() if key not in ("scratch", "run")},
        }  # fmt: skip

    def save(self) -> None:
        """Write checkpoint.pt whole or not at all."""
        partial = self.args.run / "checkpoint.partial"
        with open(partial, "wb") as file:
            torch.save(self.state(), file)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self.args.run / "checkpoint.pt")

    def load(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            self.anchors.copy_(state["anchors"])
        self.generator.set_state(state["generator"].cpu())
        version, internal, gauss = state["rng"]
        self.rng.setstate((version, tuple(internal), gauss))
        self.batches.queue = state["queue"]
        for key in ("step", "seconds", "cooldown_from", "total"):
            setattr(self, key, state[key])

    @torch.no_grad()
    def embed_pictures(self, split: Pictures) -> Tensor:
        white = torch.from_numpy(self.data.white[split.rows]).permute(0, 3, 1, 2)
        out = []
        for part in white.split(256):
            with self.autocast():
                out.append(image_embeddings(self.average, normalise(part.to(self.device).float() / 255)))
        return torch.cat(out)

    @torch.no_grad()
    def evaluate(self) -> dict[str, dict[str, float]]:
        """Recall of bare names from pictures on the three splits, with the averaged weights."""
        result = {}
        splits = {"vendor": self.data.vendor_split, "names": self.data.names_split, "both": self.data.both_split}
        for key, split in splits.items():
            candidates = sorted(set(split.names.tolist()))
            column = {name: number for number, name in enumerate(candidates)}
            with self.autocast():
                texts = text_embeddings(self.average, self.encode([self.data.labels[name] for name in candidates]))
            scores = (self.embed_pictures(split) @ texts.T).cpu().numpy()
            wanted = torch.tensor([column[name] for name in split.names.tolist()]).numpy()
            result[key] = {name: round(value, 4) for name, value in recall(scores, wanted).items()}
        return result


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("scratch", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="at most, with --yielding")
    parser.add_argument("--yielding", action="store_true", help="try fewer threads, for a machine shared with others")
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--minutes", type=float, default=0.0, help="wall-clock budget; 0 for none")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--names", type=int, default=128, help="distinct names per batch, two pictures each")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=200, help="steps")
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--smoothing", type=float, default=0.1)
    parser.add_argument("--image-anchor", type=float, default=1.0, help="weight of the pictures' anchor loss")
    parser.add_argument("--text-anchor", type=float, default=0.5, help="weight of the captions' anchor loss")
    parser.add_argument("--keep", type=float, default=0.75, help="share of the patches that training looks at")
    parser.add_argument("--average", type=float, default=0.998, help="decay of the averaged weights")
    parser.add_argument("--vision-layers", type=int, default=4)
    parser.add_argument("--patch", type=int, default=8)
    parser.add_argument("--evaluate-every", type=float, default=5.0, help="minutes")
    parser.add_argument("--held-out-vendor", default=HELD_OUT_VENDOR)
    parser.add_argument("--also-out", nargs="*", default=[], help="further design families to leave out")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
    threads = Threads(args.threads, fixed=not args.yielding)
    trainer = Trainer(args)
    size = sum(p.numel() for p in trainer.model.parameters())
    print(f"{size} parameters, {len(trainer.data.train.rows)} pictures of {len(trainer.position)} names", flush=True)
    mark, recent, next_report = time.monotonic(), [], trainer.seconds + 60 * args.evaluate_every
    while trainer.step < trainer.total:
        recent.append(trainer.train_step())
        now = time.monotonic()
        threads.after_step(now - mark)
        trainer.seconds, mark = trainer.seconds + now - mark, now
        if trainer.step % 50 == 0:
            print(f"step {trainer.step} loss {sum(recent[-100:]) / len(recent[-100:]):.3f} {trainer.seconds:.0f} s "
                  f"{torch.get_num_threads()} threads", flush=True)  # fmt: skip
        if trainer.seconds >= next_report or trainer.step == trainer.total:
            next_report = trainer.seconds + 60 * args.evaluate_every
            loss = round(sum(recent) / len(recent), 4)
            line = {"step": trainer.step, "minutes": round(trainer.seconds / 60, 2), "loss": loss, "lr": trainer.rate(),
                    "scale": round(float(trainer.model.logit_scale.exp()), 2)} | trainer.evaluate()  # fmt: skip
            with open(args.run / "curve.jsonl", "a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
            trainer.save()
            recent = []


if __name__ == "__main__":
    main()
