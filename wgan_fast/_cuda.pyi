"""The compiled module of csrc/cuda. Addresses, sizes and the stream are plain numbers; see csrc/cuda/kernels.h."""

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
    lr: float,
    alpha: float,
    eps: float,
    weight_decay: float,
    momentum: float,
    maximize: bool,
    lo: float,
    hi: float,
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
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled_weight_decay: bool,
    maximize: bool,
    lo: float,
    hi: float,
) -> None: ...
