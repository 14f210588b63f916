"""RMSprop and Adam that also clip: update and clamp in the same pass over memory.

Signatures, defaults, parameter groups and ``state_dict`` are those of ``torch.optim``; checkpoints are
interchangeable. ``clip_value`` is one more option of a group. ``capturable=True`` keeps the step counts on the
device of the parameters, which a CUDA graph needs. ``foreach`` and ``fused`` are accepted for compatibility and
have no effect: the step is always fused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from wgan_fast import ops
from wgan_fast.functional.optimizer_step import bounds, fused_step_
from wgan_fast.optimizer_options import AdamOptions, RMSpropOptions

__all__ = ["Adam", "RMSprop"]

ClipValue = float | tuple[float, float] | None


class _Clipped(torch.optim.Optimizer):
    """Shared by RMSprop and Adam: the option ``clip_value``, its handling in checkpoints, the closure."""

    backend: str

    def _set_clip_value(self, clip_value: ClipValue, backend: str, differentiable: bool) -> None:
        if differentiable:
            raise ValueError("differentiable=True: the fused step has no gradient; use the optimizer of torch.optim")
        self.backend = backend
        bounds(clip_value)  # raises where it is not one
        self.defaults["clip_value"] = clip_value
        for group in self.param_groups:
            group.setdefault("clip_value", clip_value)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, with a ``clip_value`` of its own or the optimizer's."""
        if isinstance(param_group, dict):  # torch refuses anything else
            bounds(param_group.get("clip_value"))
        super().add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:  # copies and pickles; torch's has its own three attributes alone
        return {**super().__getstate__(), "backend": self.backend}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint of this optimizer or of torch.optim's; the latter leaves ``clip_value`` unchanged."""
        mine = [group["clip_value"] for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, clip_value in zip(self.param_groups, mine, strict=True):
            group.setdefault("clip_value", clip_value)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient, then the clamp."""
        observed = (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
            or torch._C._autograd._profiler_enabled()
        )
        return self._observed_update(closure) if observed else self._update(closure)

    # torch wraps every step in its hooks and a profiler range, 5 us when warm and 20 us among other work, a fifth of
    # a small critic's step; "hooked" marks it as done. With hooks or a profiler active, torch's own wrapper runs.
    step.hooked = True  # type: ignore[attr-defined]  # a function with an attribute, as torch itself does it

    def _update(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            pairs = [(param, param.grad) for param in group["params"]]
            params = [param for param, grad in pairs if grad is not None]
            if params:
                self._step_group(group, params, [grad for _, grad in pairs if grad is not None])
        return loss

    _observed_update = torch.optim.Optimizer.profile_hook_step(_update)

    def _step_group(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        raise NotImplementedError

    def _state_lists(self, group: dict[str, Any], params: list[Tensor], **used: bool) -> list[list[Tensor]]:
        """One list per name, empty where that is not used, and the step counts; state is created where missing."""
        states, complete = [self.state[param] for param in params], 1 + sum(used.values())
        for param, state in zip(params, states, strict=True):
            if len(state) < complete:
                if param.grad is not None and param.grad.is_sparse:
                    raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")
                if "step" not in state:
                    place = param.device if group["capturable"] else "cpu"
                    state["step"] = torch.zeros((), dtype=torch.float32, device=place)
                for name, wanted in used.items():
                    if wanted and name not in state:
                        state[name] = torch.zeros_like(param, memory_format=torch.preserve_format)
        moments = [[state[name] for state in states] if wanted else [] for name, wanted in used.items()]
        return [*moments, [state["step"] for state in states]]


class RMSprop(_Clipped, torch.optim.RMSprop):
    """``torch.optim.RMSprop`` and ``clip_weights_`` in one pass.

    Equivalent to::

        optimizer = torch.optim.RMSprop(params, lr)
        ...
        optimizer.step()
        with torch.no_grad():
            for p in params:
                p.clamp_(-clip_value, clip_value)

    The paper's choice for weight clipping is ``RMSprop(critic.parameters(), lr=5e-5, clip_value=0.01)``
    (Arjovsky, Chintala & Bottou 2017, algorithm 1).

    Args:
        params, lr, alpha, eps, weight_decay, momentum, centered, maximize: as in ``torch.optim.RMSprop``.
        clip_value: a positive number c for [-c, c], a pair (lo, hi), or None for no clamp; also per group.
        backend: which backend to use; see ``wgan_fast.available_backends``.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        clip_value: ClipValue = None,
        backend: str = "auto",
    ) -> None:
        torch.optim.RMSprop.__init__(
            self, params, lr, alpha, eps, weight_decay, momentum, centered, capturable, maximize=maximize
        )
        self._set_clip_value(clip_value, backend, differentiable)

    def _step_group(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        state = self._state_lists(
            group, params, square_avg=True, grad_avg=group["centered"], momentum_buffer=group["momentum"] > 0
        )
        options = RMSpropOptions(
            group["lr"],
            group["alpha"],
            group["eps"],
            group["weight_decay"],
            group["momentum"],
            group["maximize"],
            *bounds(group["clip_value"]),
        )
        fused_step_(ops.rmsprop_step_, [params, grads, *state], options, self.backend)


class Adam(_Clipped, torch.optim.Adam):
    """``torch.optim.Adam`` and ``clip_weights_`` in one pass.

    Equivalent to::

        optimizer = torch.optim.Adam(params, lr, betas)
        ...
        optimizer.step()
        with torch.no_grad():
            for p in params:
                p.clamp_(-clip_value, clip_value)                    # where clip_value is given

    WGAN-GP's choice is ``Adam(critic.parameters(), lr=1e-4, betas=(0.0, 0.9))`` (Gulrajani et al. 2017,
    algorithm 1). With clip_value, use RMSprop: Adam with clipping is known to make critics die.

    Args:
        params, lr, betas, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay: as in ``torch.optim.Adam``.
        clip_value: a positive number c for [-c, c], a pair (lo, hi), or None for no clamp; also per group.
        backend: which backend to use; see ``wgan_fast.available_backends``.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        clip_value: ClipValue = None,
        backend: str = "auto",
    ) -> None:
        torch.optim.Adam.__init__(
            self,
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            capturable=capturable,
            decoupled_weight_decay=decoupled_weight_decay,
        )
        self._set_clip_value(clip_value, backend, differentiable)

    def _step_group(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        state = self._state_lists(group, params, exp_avg=True, exp_avg_sq=True, max_exp_avg_sq=group["amsgrad"])
        beta1, beta2 = group["betas"]
        options = AdamOptions(
            group["lr"],
            float(beta1),
            float(beta2),
            group["eps"],
            group["weight_decay"],
            group["decoupled_weight_decay"],
            group["maximize"],
            *bounds(group["clip_value"]),
        )
        fused_step_(ops.adam_step_, [params, grads, *state], options, self.backend)
