"""What prevents a critic from using the cheaper ways to differentiate its loss and penalty."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from wgan_fast.critic_modules import check_critic, first_output
from wgan_fast.double_backward import least_work, norms, smooth
from wgan_fast.double_backward.flops import count_flops
from wgan_fast.double_backward.one_pass import OBSERVERS, Tracking, can_track, scores_and_gradients
from wgan_fast.double_backward.plain_autograd import plain_autograd
from wgan_fast.double_backward.recorded.recording import learn
from wgan_fast.double_backward.rows import RULES
from wgan_fast.double_backward.shared_pass import SharedPass, nodes_before, reaches


@dataclass(frozen=True)
class Obstacle:
    """One call in a critic's forward pass.

    Attributes:
        module: the path of the innermost module that makes it, "" for the critic itself.
        operation: the function that is called.
        reason: why it prevents the cheaper way.
        shortcut: whether it also prevents `exact_shortcut` from leaving a product out.
        fused: whether `exact_shortcut` has one kernel for its double backward, where autograd runs a chain of them.
    """

    module: str
    operation: str
    reason: str
    shortcut: bool
    fused: bool = False

    def __str__(self) -> str:
        ways = "one pass and shortcut" if self.shortcut else "one pass"
        return f"{self.module or '(critic)'}: {self.operation}: {self.reason} [{ways}]"


@dataclass(frozen=True)
class Explanation:
    """How a critic's loss and penalty can be differentiated; ``str()`` formats it.

    Attributes:
        one_pass: whether loss and penalty share one backward signal in ``score_and_gradient``.
        recorded: whether scores and gradients are one node of autograd: see `recorded`.
        obstacles: the calls that prevent the cheaper ways, in the order of the forward pass.
        flops: of a critic step (a loss of the scores and a penalty, forward and backward) each way.
        forward_flops: of the critic's forward pass.
    """

    one_pass: bool
    recorded: bool
    obstacles: tuple[Obstacle, ...]
    flops: Mapping[str, int]
    forward_flops: int

    def __str__(self) -> str:
        lines = [f"one pass for scores and gradients: {'yes' if self.one_pass else 'no'}"]
        lines += [f"  {obstacle}" for obstacle in self.obstacles]
        lines.append(f"recorded from its second pass on: {'yes' if self.recorded else 'no'}")
        lines.append("matrix work of a critic step, in forward passes:")
        width = max(map(len, self.flops))
        for way, flops in self.flops.items():
            units = f"{flops / self.forward_flops:5.2f}" if self.forward_flops else "    -"
            lines.append(f"  {way:<{width}}  {units}  ({flops:,} FLOPs)")
        return "\n".join(lines)


def explain(
    critic: Callable[..., Any],
    x: Tensor,
    *,
    critic_args: Sequence[Any] = (),
    critic_kwargs: Mapping[str, Any] | None = None,
) -> Explanation:
    """Which layers prevent one pass and the shortcut, why, which of them are fused, and what each way costs.

    Runs the critic a few times on ``x``; a module is copied first, and torch's random state on the CPU is put back::

        print(wgan_fast.double_backward.explain(critic, real))

    Args:
        critic, critic_args, critic_kwargs: see ``score_and_gradient``.
        x: (B, ...), a typical batch; the sizes determine the FLOPs.

    Raises:
        RuntimeError: the critic is a compiled or sharded module, which has no double backward.
    """
    from wgan_fast.double_backward import exact_shortcut  # the package has this module's function, too

    with torch.enable_grad():
        check_critic(critic, critic_args)
    if isinstance(critic, nn.Module):
        critic = _copied(critic)

    def score(points: list[Tensor]) -> Tensor:
        return first_output(critic(points[0], *critic_args, **(critic_kwargs or {})))

    def point() -> Tensor:
        return x.detach().requires_grad_()

    def served(enough: bool) -> AbstractContextManager[Any]:
        return exact_shortcut() if enough else nullcontext()

    def step(context: AbstractContextManager[Any], own_forward: bool, track: bool = False) -> Callable[[], object]:
        def run() -> None:
            inputs = [point()]
            scores, (gradient,) = scores_and_gradients(score, inputs, [x.detach()], context, track)
            assert gradient is not None, "critic: the scores do not depend on x"
            scores = score([x.detach()]) if own_forward else scores
            loss = scores.square().sum() + gradient.square().sum()
            # The parameters, of a function as of a module.
            ends = [node.variable for node in nodes_before([loss]) if hasattr(node, "variable")]
            leaves = [leaf for leaf in ends if leaf is not inputs[0]]
            if leaves:
                torch.autograd.grad(loss, leaves, allow_unused=True)

        return run

    shortcut = least_work.reached(critic, [x], least_work.SHORTCUT)
    recorded = shortcut and isinstance(critic, nn.Module) and learn(critic, x, critic_args, critic_kwargs)
    least = least_work.SHORTCUT if recorded else least_work.ONE_PASS
    one_pass = least_work.reached(critic, [x], least)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        proven, obstacles = _follow(critic, score, point(), cast(TorchFunctionMode, exact_shortcut()))
        if not one_pass:
            proven = False
            reason = f"fewer than {least:,} multiplications on a CPU, which autograd does in less time"
            obstacles.append(Obstacle("", "forward", reason, not shortcut))
        flops = {
            "score_and_gradient": count_flops(step(served(one_pass), False, track=one_pass)),
            "autograd, scores and penalty from one forward pass": count_flops(step(nullcontext(), False)),
            "gradient_penalty with a forward pass of its own": count_flops(step(served(shortcut), True)),
            "autograd, penalty with a forward pass of its own": count_flops(step(nullcontext(), True)),
        }
        forward = count_flops(lambda: score([point()]))
    return Explanation(proven, recorded, tuple(obstacles), flops, forward)


def _copied(critic: nn.Module) -> nn.Module:
    """A deep copy, also of a critic that has run.

    ``deepcopy`` refuses tensors with a history, and modules keep such ones: the weight that the hooks of
    ``torch.nn.utils.weight_norm`` and ``spectral_norm`` compute in each forward pass.
    """
    computed = {
        id(value): value.detach().clone()
        for module in critic.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(critic, computed)


def _follow(
    critic: Any, score: Callable[[list[Tensor]], Tensor], point: Tensor, shortcut: TorchFunctionMode
) -> tuple[bool, list[Obstacle]]:
    if not can_track([point]):
        reason = "a tensor subclass or meta tensor, torch.func, saved-tensor hooks or another function mode is at work"
        return False, [Obstacle("", "forward", reason, True)]
    shared = SharedPass(len(point), point)
    shared.mark(point)
    with Tracking(shared, shortcut):
        scores = score([point])
    if shared.prove(scores, [point]):
        return True, []  # whatever else was computed does not enter the scores
    shared = SharedPass(len(point), point)
    shared.mark(point)
    tracking = _Following(shared, shortcut)
    with _observed_modules(critic, tracking), tracking:
        scores = score([point])
    obstacles = tracking.obstacles
    for side, module in tracking.sides.values():
        if not obstacles and reaches([side], [point]):
            obstacles.append(Obstacle(module, "parameter", "is computed from the input, out of sight", True))
    if scores.numel() != len(point):
        reason = f"scores of shape {tuple(scores.shape)}, not one for each sample"
        obstacles.append(Obstacle("", "scores", reason, False))
    return False, obstacles


_HOOK = "a hook may see what is in between"
_FUSED = norms.REPLACEMENTS.keys() | smooth.REPLACEMENTS.keys()


class _Following(Tracking):
    """Tracking that records calls without a rule, and continues as if they had one."""

    def __init__(self, shared: SharedPass, shortcut: TorchFunctionMode) -> None:
        super().__init__(shared, shortcut)
        self.path: list[str] = []
        self.obstacles: list[Obstacle] = []
        self.sides: dict[int, tuple[Tensor, str]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = torch.utils._pytree.tree_leaves((args, kwargs))
        met = any(self.shared.is_marked(value) for value in given)
        result = super().__torch_function__(func, types, args, kwargs)
        here = self.path[-1] if self.path else ""
        for side in self.shared.sides:
            self.sides.setdefault(id(side), (side, here))
        if met:
            tensors = [t for t in torch.utils._pytree.tree_leaves(result) if type(t) is Tensor and t.requires_grad]
            lost = [t for t in tensors if not self.shared.is_marked(t)]
            if lost or func in OBSERVERS:
                self._write_down(func, here, tensors)
            for tensor in lost:
                if tensor.dim() and len(tensor) % self.shared.batch == 0:
                    self.shared.mark(tensor)
        return result

    def _write_down(self, func: Any, here: str, results: list[Tensor]) -> None:
        name = getattr(func, "__name__", str(func))
        # A Function of ours; a call that a replacement did not take has a node of autograd's own.
        fused = func in _FUSED and all(hasattr(result.grad_fn, "_forward_cls") for result in results)
        if fused:
            reason = "the second derivative is not zero; fused, one kernel instead of a chain of operations"
        elif func in OBSERVERS:
            reason = _HOOK
        elif not plain_autograd():
            reason = "in a checkpointed segment, or under other saved-tensor hooks"
        elif func in RULES:
            reason = "mixes samples, or features with one another, or a parameter enters in a form that is not known"
        else:
            reason = "not known to be piecewise linear and to keep samples apart"
        self.obstacles.append(Obstacle(here, name, reason, func not in RULES, fused))


@contextmanager
def _observed_modules(critic: Any, following: _Following) -> Iterator[None]:
    """Within this context, the path ends with the name of the module whose forward pass runs.

    Backward hooks are written down and left out: what torch does for them would be reported call by call.
    """
    handles, hooks = [], []
    for name, module in critic.named_modules() if isinstance(critic, nn.Module) else ():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: following.path.append(name)))
        handles.append(module.register_forward_hook(lambda *_: following.path.__delitem__(-1)))
        for registered in (module._backward_hooks, module._backward_pre_hooks):
            if registered:
                following.obstacles.append(Obstacle(name, "backward hook", _HOOK, True))
                hooks.append((registered, dict(registered)))
                registered.clear()
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for registered, kept in hooks:
            registered.update(kept)
