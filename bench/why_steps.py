"""Why not in one go? Trains a network from pure noise straight to the picture, and shows what it answers: the mean.

    python bench/why_steps.py RUN [--steps 1000] [--threads 2] [--out docs/images/why-steps.png]

RUN is a run of the demo (Fashion-MNIST). The network sees nothing but noise and a label and regresses the picture by
squared error; its answers are compared with the exact means of the training pictures, and with what the run's model and
the exact denoiser draw in 1, 2, 5, 10 and 20 steps. Prints the tables of docs/why-steps.md and draws its picture.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from inkwash.codec import Pixels
from inkwash.data import load
from inkwash.device import autocast_dtype, keep_memory
from inkwash.drive import drive
from inkwash.nets import UNet
from inkwash.noise import Philox, Stream
from inkwash.optim import Muon, Schedule
from inkwash.paths import Linear
from inkwash.pictures import grid, save_png, scatter, text
from inkwash.pipeline import load as load_run
from inkwash.samplers import Ddim
from inkwash.types import Condition, Denoised, Denoiser, Given, Query

STEPS = (1, 2, 5, 10, 20)
SHOWN = (0, 1, 3, 5, 8, 9)
"""Classes in the picture: one row each."""

ANY = -1
"""The null label: any class."""

POINTS = torch.tensor([[-1.0, -0.6], [1.0, 0.6]], dtype=torch.float64)
"""The two points of the two-dimensional example, equally likely."""


class OneShot:
    """A U-Net that is shown pure noise and a label, trained to answer with the picture."""

    def __init__(self, classes: int) -> None:
        torch.manual_seed(0)
        self.net: nn.Module = UNet("tiny").build((1, 28, 28), Given(classes))
        self.dtype = autocast_dtype("auto", torch.device("cpu"))

    def __call__(self, noise: Tensor, label: Tensor) -> Tensor:
        """Pictures [B, 1, 28, 28] for noise of that shape and labels [B]; the time is always t = 1."""
        t = torch.full((len(noise),), 1000.0)
        with torch.autocast("cpu", self.dtype or torch.float32, enabled=self.dtype is not None):
            y: Tensor = self.net(noise, t, t, Condition(label))
        return y.float()

    def train(self, images: Tensor, labels: Tensor, steps: int, batch: int = 128) -> Tensor:
        """Least squares in so many steps; a tenth of the labels are replaced by "any". The loss at each step."""
        draw = torch.Generator().manual_seed(0)
        recipe = Muon(lr=3e-3, weight_decay=0.0, schedule=Schedule(warmup=20, decay=0.6))  # the demo's
        optimizers = recipe.build(self.net)
        losses: list[float] = []
        for step in range(steps):
            for group in (g for o in optimizers for g in o.param_groups):
                group["lr"] = recipe.lr * recipe.schedule(step, step / steps)
            rows = torch.randint(len(images), (batch,), generator=draw)
            dropped = torch.rand(batch, generator=draw) < 0.1
            noise = torch.randn(batch, 1, 28, 28, generator=draw)
            y = self(noise, torch.where(dropped, ANY, labels[rows]))
            loss = (y - Pixels().encode(images[rows])).square().mean()
            loss.backward()
            nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            losses.append(float(loss.detach()))
        return torch.tensor(losses, dtype=torch.float64)


class Means:
    """The exact answer: the mean of each class and of all, and how far the pictures are from it."""

    def __init__(self, images: Tensor, labels: Tensor, classes: int) -> None:
        x0 = Pixels().encode(images).double()
        groups = [labels == c for c in range(classes)] + [labels >= 0]
        self.mean = torch.stack([x0[g].mean(0) for g in groups])  # the last one, at index ANY, is that of all
        self.floor = torch.stack([x0[g].var(0, correction=0).mean() for g in groups])

    def compare(self, answers: Tensor, labels: Tensor) -> tuple[float, float]:
        """Per pixel: the mean squared distance of answers to their means, and their variance over the noises."""
        found = [answers[labels == c].double() for c in labels.unique().tolist()]
        means = [self.mean[c] for c in labels.unique().tolist()]
        distance = torch.stack([(y - m).square().mean() for y, m in zip(found, means, strict=True)])
        return float(distance.mean()), float(torch.stack([y.var(0).mean() for y in found]).mean())


def start(n: int) -> Tensor:
    """The noise a pipeline starts n pictures from with seed 0."""
    return Philox(0, torch.arange(n))(torch.empty(n, 1, 28, 28), 0, Stream.START)


def drawn(denoiser: Denoiser, labels: Tensor, steps: int, size: int = 32) -> Tensor:
    """What DDIM draws from `start(len(labels))`: not guided, not clipped, not rounded."""
    parts = []
    for x, label in zip(start(len(labels)).split(size), labels.split(size), strict=True):
        asking = Ddim()(Linear(), x, _times(steps, len(x)), Philox(0, torch.arange(len(x))))
        parts.append(drive(asking, denoiser, Condition(label)))
    return torch.cat(parts)


class Exact:
    """The denoiser that no network can better on a finite set: the mean of its pictures, weighted by what x says.

    D(x, t) = sum_i softmax_i(-|x - alpha·x_i|²/2sigma²)·x_i over the pictures of the label: all alike at alpha = 0.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.pictures = [Pixels().encode(images[labels == c]).flatten(1) for c in range(int(labels.max()) + 1)]

    def __call__(self, query: Query, cond: Condition) -> Denoised:
        """The estimates for one row, on the path `Linear`."""
        assert cond.label is not None
        data, x, c = self.pictures[int(cond.label)], query.x.flatten(1), Linear()(query.t)
        alpha, sigma = float(c.alpha), float(c.sigma)
        weights = ((alpha * x @ data.T - alpha**2 / 2 * data.square().sum(1)) / sigma**2).softmax(1)
        x0 = (weights @ data).view_as(query.x)
        return Denoised(x0, (query.x - alpha * x0) / sigma)


def two_points(steps: int, n: int = 400) -> Tensor:
    """Where DDIM with the exact denoiser takes n noises [n, 2] when the data are `POINTS`."""
    path, (a, b) = Linear(), POINTS

    def denoiser(query: Query, cond: Condition) -> Denoised:
        c = path(query.t).like(query.x)
        middle, half = (a + b) / 2, (a - b) / 2
        odds = c.alpha * ((query.x - c.alpha * middle) * half).sum(1, keepdim=True) / c.sigma**2
        x0 = middle + half * odds.tanh()
        return Denoised(x0, (query.x - c.alpha * x0) / c.sigma)

    noise = Philox(0, torch.arange(n))
    x = noise(torch.empty(n, 2, dtype=torch.float64), 0, Stream.START)
    return drive(Ddim()(path, x, _times(steps, n), noise), denoiser, Condition())


def _times(steps: int, batch: int) -> Tensor:
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:, None].expand(-1, batch)


def main() -> None:
    """Train, measure, print, draw."""
    parser = argparse.ArgumentParser(description="What a network learns that goes from noise to the picture in one go")
    parser.add_argument("run", type=Path, help="a run of the demo, whose model draws in several steps")
    parser.add_argument("--steps", type=int, default=1000, help="of training, 128 pictures each (default 1000)")
    parser.add_argument("--threads", type=int, default=2, help="(default 2)")
    parser.add_argument("--noises", type=int, default=32, help="noises a class that are measured (default 32)")
    parser.add_argument("--out", type=Path, default=Path("docs/images/why-steps.png"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_memory()
    data = load("fashion-mnist")
    if data.labels is None:
        raise ValueError(f"{data.name} has no labels.")
    classes = len(data.classes)
    images, targets = torch.from_numpy(np.array(data.images)), torch.from_numpy(np.array(data.labels))
    exact = Means(images, targets, classes)
    floor, floor_any = float(exact.floor[:-1].mean()), float(exact.floor[ANY])

    one_shot = OneShot(classes)
    began = time.monotonic()
    losses = one_shot.train(images, targets, args.steps)
    took, recent = time.monotonic() - began, losses[-100:]
    print(
        f"one-shot: {args.steps} steps of 128 pictures in {took:.0f} s on {args.threads} threads; loss of the last 100"
    )
    print(f"{recent.mean():.4f} +- {recent.std() / 10:.4f}, its floor {0.9 * floor + 0.1 * floor_any:.4f}\n")

    pipe = load_run(args.run)
    labels = torch.arange(args.noises * classes) % classes
    with torch.no_grad():
        one_shot.net.eval()
        ours = torch.cat([one_shot(x, y) for x, y in zip(start(len(labels)).split(64), labels.split(64), strict=True)])
        nothing = torch.full_like(labels, ANY)
        free = torch.cat([one_shot(x, y) for x, y in zip(start(len(labels)).split(64), nothing.split(64), strict=True)])
    by_steps = {n: drawn(pipe.model, labels, n) for n in STEPS}
    perfect = {n: drawn(Exact(images, targets), labels, n, size=1) for n in STEPS}
    print("| answers | distance to the mean | variance over noises | of the data's |\n|---|---|---|---|")
    _row("one-shot, any class", *exact.compare(free, nothing), floor_any)
    _row("one-shot, label given", *exact.compare(ours, labels), floor)
    for n in STEPS:
        _row(f"the run's model, {_steps(n)}", *exact.compare(by_steps[n], labels), floor)
    for n in STEPS:
        _row(f"exact denoiser, {_steps(n)}", *exact.compare(perfect[n], labels), floor)
    _row("pictures of the data", floor, floor, floor)

    print("\n| steps | near one of the two points |\n|---|---|")
    ends = {n: two_points(n) for n in STEPS}
    for n, x in ends.items():
        near = (x[:, None] - POINTS).norm(dim=2).amin(1) < 0.1 * (POINTS[0] - POINTS[1]).norm()
        print(f"| {n} | {near.double().mean():.0%} |")

    rows = torch.tensor(SHOWN)
    second = rows + classes  # the same class from another noise
    columns = {
        "noise": start(len(labels))[rows] / 3,
        "one shot": ours[rows],
        "one shot, other noise": ours[second],
        "mean of the class": exact.mean[rows],
        **{_steps(n): by_steps[n][rows] for n in STEPS},
        "20 steps, other noise": by_steps[20][second],
    }
    settings = {"run": str(args.run), "steps": args.steps, "sampler": "ddim", "guidance": 1, "seed": 0}
    save_png(page(columns, ends), args.out, settings)
    print(f"\n{args.out}")


def page(columns: dict[str, Tensor], ends: dict[int, Tensor]) -> Image.Image:
    """The picture of docs/why-steps.md: a sheet of pictures [rows, 1, 28, 28] by column, and the two points below."""
    cells = torch.stack([Pixels().decode(x) for x in columns.values()], 1).flatten(0, 1).numpy()
    top = grid(cells, len(columns), labels=list(columns), scale=3, gap=4)
    across, height = top.width // len(ends), 158
    whole = Image.new("RGB", (top.width, top.height + height + 34), (255, 255, 255))
    whole.paste(top, (0, 0))
    caption = "The same with two points for data, and the exact denoiser: where 400 noises end"
    text.write(ImageDraw.Draw(whole), (top.width / 2, top.height + 14), caption, 14, anchor="ma")
    for i, (n, x) in enumerate(ends.items()):
        panel = scatter(x.numpy(), limits=(-1.45, 1.45, -0.95, 0.95), title=_steps(n), size=(across, height))
        whole.paste(panel, (i * across, top.height + 34))
    return whole


def _steps(n: int) -> str:
    return f"{n} step{'s' * (n > 1)}"


def _row(name: str, distance: float, variance: float, floor: float) -> None:
    print(f"| {name} | {distance:.4f} | {variance:.4f} | {variance / floor:.2%} |")


if __name__ == "__main__":
    main()
