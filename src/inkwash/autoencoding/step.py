"""One step of training an autoencoder, and of its critic once that has begun."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from inkwash.autoencoding.discriminator import Patches, critic_loss, fair_weight, generator_loss
from inkwash.autoencoding.losses import Parts
from inkwash.autoencoding.recipe import CodecRecipe
from inkwash.autoencoding.state import State
from inkwash.codec import Pixels
from inkwash.data import Stream as Examples
from inkwash.nets.autoencoder import Autoencoder, Posterior
from inkwash.noise import Philox, Stream


class Taken(NamedTuple):
    """What a step was like: loss and its parts, the gradient's norm; 0-d tensors, still on the device."""

    loss: Tensor
    norm: Tensor
    parts: Parts


@dataclass(frozen=True)
class Step:
    """Called with how much of the run is done, takes the next step of a state.

    examples: what it is trained on; autocast: the dtype the networks run in (None: float32). What is drawn depends on
    the seed and the running number of each example alone.
    """

    recipe: CodecRecipe
    examples: Examples
    device: torch.device
    autocast: torch.dtype | None

    def __call__(self, state: State, fraction: float) -> Taken:
        """Change the state; nothing is learned, and it is counted, where loss or gradient are not finite."""
        recipe, size = self.recipe, self.recipe.train.batch_size
        number = state.step * size + np.arange(size)
        x = Pixels().encode(torch.from_numpy(self.examples.rows(number).images).to(self.device))
        y, posterior = self._rebuilt(state.net, x, torch.from_numpy(number))
        parts = recipe.loss.parts(x, y, posterior)
        loss = objective = recipe.loss(parts)
        rival = state.rival
        if rival is not None:  # once begun it goes on, also where the run is made longer
            state.judged = state.judged or fraction >= rival.settings.start
            rival = rival if state.judged else None
        if rival is not None:
            fooled = generator_loss(self._judged(rival.net.requires_grad_(False), y))
            fair = fair_weight(recipe.loss.reconstruction(parts), fooled, last_layer(state.net))
            objective = loss + rival.settings.weight * fair * fooled
        torch.autograd.backward(objective)
        scale, clip = recipe.optim.schedule(state.step, fraction), recipe.train.clip
        ok, norm = _descend(state.optims, state.net, objective, recipe.optim.lr * scale, clip)
        if rival is not None:
            real, fake = self._judged(rival.net.requires_grad_(True), torch.cat([x, y.detach()])).chunk(2)
            apart = critic_loss(real, fake)
            torch.autograd.backward(apart)
            _descend(rival.optims, rival.net, apart, rival.settings.lr * scale, clip)
        state.step += 1
        state.average.update(state.net, state.step, ok)
        state.skipped += ~ok
        state.streak = torch.where(ok, torch.zeros_like(state.streak), state.streak + 1)
        return Taken(loss.detach(), norm, Parts(*(p.detach() for p in parts)))

    def _rebuilt(self, net: Autoencoder, x: Tensor, number: Tensor) -> tuple[Tensor, Posterior]:
        """Pictures through a sample of their posterior, and that; both in float32."""
        with self._precision():
            mean, logvar = net.encode(x)
        posterior = Posterior(mean.float(), None if logvar is None else logvar.float())
        z = posterior.sample(Philox(self.recipe.train.seed, number)(posterior.mean, 0, Stream.EPS))
        with self._precision():
            y = net.decode(z)
        return y.float(), posterior

    def _judged(self, critic: Patches, pictures: Tensor) -> Tensor:
        with self._precision():
            verdict: Tensor = critic(pictures)
        return verdict

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.autocast or torch.float32, enabled=self.autocast is not None)


def last_layer(net: Autoencoder) -> Tensor:
    """The weight of the decoder's last convolution."""
    convolutions = [p for name, p in net.named_parameters() if name.startswith("decoder.") and p.ndim == 4]
    return convolutions[-1]


def _descend(
    optims: list[torch.optim.Optimizer], net: nn.Module, loss: Tensor, lr: float, clip: float
) -> tuple[Tensor, Tensor]:
    """A step along the gradients there are, clipped to a norm; whether it was finite, else none is taken; the norm."""
    grads = [p.grad for p in net.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(grads)
    ok = loss.detach().isfinite() & norm.isfinite()
    torch._foreach_mul_(grads, (clip / (norm + 1e-6)).clamp(max=1.0))
    for optim in optims:
        for group in optim.param_groups:
            group["lr"] = lr
        optim.found_inf = (~ok).float()  # type: ignore[attr-defined]
        optim.step()
        optim.zero_grad()
    return ok, norm
