"""What a user's file may look like: checked by ``make typecheck``, and by ``make wheel`` against the built package."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import wgan_fast
from wgan_fast.training import Config, Trainer

critic = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
real, fake = torch.randn(4, 2), torch.randn(4, 2)

assert_type(wgan_fast.gradient_penalty(critic, real, fake, weight=10.0), Tensor)
assert_type(wgan_fast.gradient_penalty(critic, real, fake, return_norms=True), tuple[Tensor, Tensor])
assert_type(wgan_fast.r1_penalty(critic, real, weight=5.0, return_scores=True), tuple[Tensor, Tensor])
both = wgan_fast.r1_penalty(critic, real, return_norms=True, return_scores=True)
assert_type(both, tuple[Tensor, Tensor, Tensor])
assert_type(wgan_fast.score_and_gradient(critic, real), tuple[Tensor, Tensor])
assert_type(wgan_fast.gradient_norm_penalty(real), Tensor)
assert_type(wgan_fast.gradient_norm_penalty(real, return_norms=True), tuple[Tensor, Tensor])
assert_type(wgan_fast.interpolate(real, fake), Tensor)
assert_type(wgan_fast.clip_weights_(critic, 0.01), None)
assert_type(wgan_fast.approximate_r1_penalty(critic, real, 0.01), Tensor)
optimizer: torch.optim.Optimizer = wgan_fast.optim.RMSprop(critic.parameters(), lr=5e-5, clip_value=0.01)
trainer = Trainer(nn.Linear(2, 2), critic, real, Config(iterations=1, latent_dim=2))
assert_type(trainer.sample(4), Tensor)
