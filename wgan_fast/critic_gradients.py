"""A critic's scores and their gradients with respect to its input, both differentiable.

``score_and_gradient`` is for a loss of the scores and a penalty of the gradients at the same samples::

    scores, gradients = score_and_gradient(critic, real)
    loss = F.softplus(-scores).mean() + gamma / 2 * gradients.square().flatten(1).sum(1).mean()
    loss.backward()

``gradient_penalty`` and its relatives take ``return_scores=True`` for the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypedDict, overload

import torch
from torch import Tensor

from wgan_fast import double_backward
from wgan_fast.critic_modules import check_critic
from wgan_fast.critic_modules import first_output as first_output  # where a loop looks for it
from wgan_fast.double_backward import least_work
from wgan_fast.double_backward.fused_kernels import plain_attention
from wgan_fast.double_backward.one_pass import foreign_mode, scores_and_gradients
from wgan_fast.double_backward.penalised_points import mark_points
from wgan_fast.double_backward.recorded.node import scores_and_gradients as gradients_of_record
from wgan_fast.double_backward.recorded.recording import recorded, watched

Critic = Callable[..., Any]


if TYPE_CHECKING:
    from typing_extensions import Unpack

    class _Options(TypedDict, total=False):
        critic_args: Sequence[Any]
        critic_kwargs: Mapping[str, Any] | None
        scaler: Any

    _Tuple = tuple[Tensor | None, ...]
    _Dict = dict[str, Tensor | None]


@overload
def score_and_gradient(critic: Critic, x: Tensor, **options: Unpack[_Options]) -> tuple[Tensor, Tensor]: ...
@overload
def score_and_gradient(critic: Critic, x: tuple[Tensor, ...], **options: Unpack[_Options]) -> tuple[Tensor, _Tuple]: ...
@overload
def score_and_gradient(
    critic: Critic, x: Mapping[str, Tensor], **options: Unpack[_Options]
) -> tuple[Tensor, _Dict]: ...
def score_and_gradient(
    critic: Critic,
    x: Any,
    *,
    critic_args: Sequence[Any] = (),
    critic_kwargs: Mapping[str, Any] | None = None,
    scaler: Any = None,
) -> Any:
    """Scores, and the gradients of their sum with respect to x, both ready to enter one loss.

    Equivalent to::

        x = x.detach().requires_grad_()
        scores = critic(x, *critic_args, **critic_kwargs)
        (gradients,) = torch.autograd.grad(scores.sum(), x, create_graph=True)

    except that a loss of the scores and a penalty of the gradients, differentiated in one ``backward``, cost four
    units of matrix work per layer instead of six where the critic allows it: one score per sample, computed by linear
    layers, convolutions, piecewise-linear activations, poolings, sums, concatenations and views that keep the batch
    first.
    Elsewhere (norms, smooth activations, minibatch statistics, score maps, attention, hooks on intermediate tensors,
    checkpointed segments, torch.compile, torch.func, tensor subclasses) autograd computes both.
    ``double_backward.explain`` names the layers of a critic that prevent it.

    Scores and gradients may be used in any way: either one alone, in several ``backward`` calls, scaled, in terms that
    join them with other scores, differentiated for some parameters only, or more than once. A parameter that enters
    the scores has a gradient of zeros, not None, where only the gradients are used and do not depend on it. A tensor
    in between that the critic keeps, such as its features, may enter the loss; but where one pass serves the critic,
    the gradient with respect to that tensor, and a hook on it, lacks the scores' part. If x
    requires grad, the loss can be differentiated with respect to x; otherwise x is detached. Under ``torch.no_grad()``
    both are plain values.

    Args:
        critic: a module or function of x, ``critic_args`` and ``critic_kwargs``. Its scores are of shape (B,), (B, 1)
            or (B, 1, h, w), or the first entry of a tuple, list or dict.
        x: (B, ...), or a tuple or dict of such tensors, passed to the critic unchanged. Tensors that are not of
            a floating-point type (labels) are passed on.
        scaler: a ``torch.amp.GradScaler``, see ``gradient_penalty``.

    Returns:
        The pair (scores, gradients), gradients in the structure of x; None for a tensor of a tuple or dict that the
        scores do not depend on.

    Raises:
        TypeError, ValueError: an argument is not as above, or the scores do not depend on the input.
        RuntimeError: under ``torch.inference_mode()``; the critic is a compiled module, which has no double backward.
    """
    check_critic(critic, critic_args)
    return scored_with_gradient(critic, x, critic_args, critic_kwargs, scaler=scaler)


def scored_with_gradient(
    critic: Critic,
    x: Any,
    critic_args: Sequence[Any] = (),
    critic_kwargs: Mapping[str, Any] | None = None,
    *,
    scaler: Any = None,
    exact_shortcut: bool = True,
    scores_used: bool = True,
) -> tuple[Tensor, Any]:
    """``score_and_gradient`` without its check of the critic.

    Args:
        exact_shortcut: if False, as autograd does it.
        scores_used: whether the scores may enter the loss.
    """
    recording = torch.is_grad_enabled()
    names, values = _parts(x)
    places = [i for i, v in enumerate(values) if v.is_floating_point()]
    inputs = [values[i] for i in places]
    if not inputs:
        raise TypeError(f"x: expected floating-point samples of shape (B, ...), got {[v.dtype for v in values]}")

    def score(points: list[Tensor]) -> Tensor:
        given = list(values)
        for i, point in zip(places, points, strict=True):
            given[i] = point
        packed = given[0] if names is None else _packed(x, names, given)
        scores = first_output(critic(packed, *critic_args, **(critic_kwargs or {})))
        for point in points:
            _check_scores(scores, point)
        return scores

    def scale_of(scores: Tensor) -> Tensor | None:
        return None if scaler is None else _seed_scale(scores, scaler)

    shortcut = recording and exact_shortcut and least_work.reached(critic, inputs, least_work.SHORTCUT)
    with torch.enable_grad():
        points = [v.detach().requires_grad_() for v in inputs]
        record = recorded(critic, score, points) if shortcut else None
        if record is not None and record.scores is not None:
            record = record._replace(scale=scale_of(record.scores))
            scores, found = gradients_of_record(record, inputs, scores_used=scores_used)
        else:
            way = watched(critic, score, points) if shortcut else score
            one_pass = shortcut and scores_used and not foreign_mode()
            one_pass = one_pass and least_work.reached(critic, inputs, least_work.ONE_PASS)
            served = one_pass if scores_used else shortcut
            context = _critic_context(inputs[0], exact_shortcut, served) if recording else nullcontext()
            points = [
                v.view_as(v) if recording and v.requires_grad else mark_points(point)
                for v, point in zip(inputs, points, strict=True)
            ]
            scores, found = scores_and_gradients(
                way, points, inputs, context, one_pass, scale_of=scale_of, create_graph=recording
            )
    if all(g is None for g in found):
        raise ValueError(_IGNORES_INPUT)
    gradients: list[Tensor | None] = [None] * len(values)
    for i, g in zip(places, found, strict=True):
        gradients[i] = g
    return scores if recording else scores.detach(), gradients[0] if names is None else _packed(x, names, gradients)


def _parts(x: Any) -> tuple[list[Any] | None, list[Tensor]]:
    """The keys of a dict or the indices of a tuple (None for a tensor), and the tensors."""
    if isinstance(x, Tensor):
        return None, [x]
    if isinstance(x, Mapping):
        names, values = list(x), list(x.values())
    elif isinstance(x, (tuple, list)):
        names, values = list(range(len(x))), list(x)
    else:
        raise TypeError(f"x: expected a tensor, or a tuple or dict of tensors, got {type(x).__name__}")
    for name, value in zip(names, values, strict=True):
        if not isinstance(value, Tensor):
            raise TypeError(f"x[{name!r}]: expected a tensor, got {type(value).__name__}")
    return names, values


def _packed(x: Any, names: list[Any], values: Sequence[Any]) -> Any:
    return dict(zip(names, values, strict=True)) if isinstance(x, Mapping) else tuple(values)


def input_gradient(
    critic: Critic,
    x: Tensor,
    critic_args: Sequence[Any] = (),
    critic_kwargs: Mapping[str, Any] | None = None,
    *,
    scaler: Any = None,
    exact_shortcut: bool = True,
) -> Tensor:
    """d sum(critic(x)) / dx, in the shape of x; it can be differentiated again if autograd is recording."""
    options = {"scaler": scaler, "exact_shortcut": exact_shortcut, "scores_used": False}
    gradients: Tensor = scored_with_gradient(critic, x.detach(), critic_args, critic_kwargs, **options)[1]
    return gradients


def _check_scores(scores: Tensor, x: Tensor) -> None:
    if scores.shape[:1] != x.shape[:1]:
        raise ValueError(
            f"critic: expected one score (or map of scores) per sample, shape ({x.shape[0]}, ...), "
            f"got {tuple(scores.shape)}"
        )
    if not scores.requires_grad:
        raise ValueError(_IGNORES_INPUT)
    if not scores.is_floating_point():
        raise TypeError(f"critic: expected scores of a floating-point type, got {scores.dtype}")


def _critic_context(x: Tensor, wanted: bool, served: bool) -> AbstractContextManager[Any]:
    """How the critic's forward pass runs, if its gradient is to be differentiated again.

    ``wanted`` is the caller's ``exact_shortcut``, ``served`` whether this critic has the shortcut.
    """
    if served:
        return double_backward.exact_shortcut()
    if wanted and x.is_cpu:
        return plain_attention()  # does not intercept the calls of a critic that was left to autograd to save time
    return double_backward.twice_differentiable()


def _seed_scale(scores: Tensor, scaler: Any) -> Tensor:
    """The scale of the seeds, on the device and without a host sync.

    The scaler's scale is meant for the mean over the batch, whose seeds are smaller by the number of samples: the
    scale itself, 2**16 at first, overflows fp16. Dividing by a power of two is exact.
    """
    scale: Tensor = scaler.scale(torch.ones((), device=scores.device)) / (1 << (len(scores) - 1).bit_length())
    return scale.clamp(max=min(torch.finfo(dtype).max for dtype in (scores.dtype, scale.dtype)) / 2)


_IGNORES_INPUT = (
    "critic: the scores do not depend on the input, so there is no gradient to penalise; expected a critic that "
    "computes its scores from its first argument, without detach() or no_grad() in between"
)
