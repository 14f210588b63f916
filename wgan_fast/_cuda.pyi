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
