"""The compiled module of csrc/cuda. Addresses, sizes and the stream are plain numbers; see csrc/cuda/kernels.h."""

from wgan_fast.optimizer_options import AdamOptions, RMSpropOptions

def unusable() -> str: ...
def penalty_workspace(batch: int, row_size: int, code: int) -> int: ...
def clip_weights(
    device: int, stream: int, addresses: list[int], sizes: list[int], code: int, lo: float, hi: float
) -> None: ...
def interpolate(
    device: int,
    stream: int,
    real: int,
    fake: int,
    alpha: int,
    out: int,
    batch: int,
    total: int,
    code: int,
) -> None: ...
def gradient_norm_penalty(
    device: int,
    stream: int,
    gradients: int,
    slope: int,
    norms: int,
    value: int,
    workspace: int,
    batch: int,
    total: int,
    code: int,
    target: float,
    one_sided: bool,
    weight: float,
    reduction: str,
) -> None: ...
def activation_double_backward(
    device: int,
    stream: int,
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
) -> None: ...
def norm_workspace(rows: int, size: int, code: int) -> int: ...
def norm_double_backward(
    device: int,
    stream: int,
    x: int,
    mean: int,
    rstd: int,
    weight: int,
    g: int,
    v: int,
    to_g: int,
    to_x: int,
    to_weight: int,
    partials: int,
    workspace: int,
    chunks: int,
    batch: int,
    channels: int,
    positions: int,
    groups: int,
    code: int,
) -> None: ...
def rmsprop_step(
    device: int,
    stream: int,
    columns: list[list[int]],
    code: int,
    steps_on_device: bool,
    centered: bool,
    with_momentum: bool,
    lr_address: int,
    lr_is_double: bool,
    options: RMSpropOptions,
) -> None: ...
def adam_step(
    device: int,
    stream: int,
    columns: list[list[int]],
    code: int,
    steps_on_device: bool,
    amsgrad: bool,
    lr_address: int,
    lr_is_double: bool,
    options: AdamOptions,
) -> None: ...
