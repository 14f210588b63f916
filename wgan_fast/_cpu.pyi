"""The compiled module of csrc/cpu. Addresses and sizes are plain numbers; see csrc/cpu/kernels.h for their meaning."""

from wgan_fast.optimizer_options import AdamOptions, RMSpropOptions

def clip_weights(
    addresses: list[int], sizes: list[int], codes: list[int], lo: float, hi: float, threads: int
) -> None: ...
def interpolate(
    real: int, fake: int, alpha: int, out: int, batch: int, total: int, code: int, threads: int
) -> None: ...
def gradient_norm_penalty(
    gradients: int,
    slope: int,
    norms: int,
    value: int,
    batch: int,
    total: int,
    code: int,
    target: float,
    one_sided: bool,
    weight: float,
    reduction: str,
    threads: int,
) -> None: ...
def activation_double_backward(
    saved: int,
    g: int,
    v: int,
    to_g: int,
    to_saved: int,
    size: int,
    code: int,
    activation: int,
    a: float,
    b: float,
    c: float,
    threads: int,
) -> None: ...
def norm_double_backward(
    x: int,
    mean: int,
    rstd: int,
    weight: int,
    g: int,
    v: int,
    to_g: int,
    to_x: int,
    to_weight: int,
    batch: int,
    channels: int,
    positions: int,
    groups: int,
    code: int,
    threads: int,
) -> None: ...
def rmsprop_step(
    codes: list[int],
    columns: list[list[int]],
    centered: bool,
    with_momentum: bool,
    options: RMSpropOptions,
    threads: int,
) -> None: ...
def adam_step(
    codes: list[int],
    columns: list[list[int]],
    amsgrad: bool,
    options: AdamOptions,
    threads: int,
) -> None: ...
