"""Single instructions against what the PTX manual says of them: roundings, NaN, saturation, shuffles."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from interpreter import Allocation, Module, UnknownPtx

KERNEL = """
.version 8.0
.target sm_90
.address_size 64
.func (.param .b64 func_retval0) half(.param .b64 half_param_0)
{
    .reg .f64 %fd<3>;
    ld.param.f64 %fd1, [half_param_0];
    mul.f64 %fd2, %fd1, 0d3FE0000000000000;
    st.param.f64 [func_retval0], %fd2;
    ret;
}
.visible .entry kernel(.param .u64 kernel_param_0, .param .u64 kernel_param_1, .param .align 8 .b8 kernel_param_2[24])
{
    .reg .pred %p<4>;
    .reg .b16 %rs<4>;
    .reg .f32 %f<6>;
    .reg .f64 %fd<6>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [kernel_param_0];
    ld.param.u64 %rd2, [kernel_param_1];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd3, %r1, IN;
    mad.wide.u32 %rd2, %r1, OUT, %rd2;
    add.s64 %rd1, %rd1, %rd3;
    BODY
    ret;
}
"""


def execute(body: str, inputs: np.ndarray, dtype: type) -> np.ndarray:
    """One thread per row of the inputs, whose address is in %rd1; %rd2 is that of its result."""
    inputs = np.ascontiguousarray(inputs)
    out = np.zeros(len(inputs), dtype)
    text = KERNEL.replace("IN;", f"{inputs.nbytes // len(inputs)};").replace("OUT", str(out.itemsize))
    kernel = Module(text.replace("BODY", body)).kernel("kernel")
    parameters = np.array([inputs.ctypes.data, out.ctypes.data, 5, 6, 7], np.int64).tobytes()
    memory = [Allocation("in", inputs.ctypes.data, inputs.nbytes), Allocation("out", out.ctypes.data, out.nbytes)]
    kernel.launch(1, len(inputs), parameters, memory)
    return out


def f32(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


NAN, INF = float("nan"), float("inf")
PAIRS = np.array([[1, 2], [NAN, 2], [1, NAN], [NAN, NAN], [0.0, -0.0], [-0.0, 0.0]], np.float32)
LOAD = "ld.global.v2.f32 {%f1, %f2}, [%rd1]; "


def same(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(actual, expected)
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(actual)[number], np.signbit(expected)[number])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("min.f32", f32(1, 2, 1, NAN, -0.0, -0.0)),
        ("max.f32", f32(2, 2, 1, NAN, 0.0, 0.0)),
        ("min.NaN.f32", f32(1, NAN, NAN, NAN, -0.0, -0.0)),
        ("max.NaN.f32", f32(2, NAN, NAN, NAN, 0.0, 0.0)),
    ],
)
def test_minima_drop_nan_unless_told_otherwise(name: str, expected: np.ndarray) -> None:
    same(execute(f"{LOAD} {name} %f3, %f1, %f2; st.global.f32 [%rd2], %f3;", PAIRS, np.float32), expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lt", [1, 0, 0, 0, 0, 0]),
        ("ltu", [1, 1, 1, 1, 0, 0]),
        ("eq", [0, 0, 0, 0, 1, 1]),
        ("ne", [1, 0, 0, 0, 0, 0]),
        ("neu", [1, 1, 1, 1, 0, 0]),
        ("equ", [0, 1, 1, 1, 1, 1]),
        ("num", [1, 0, 0, 0, 1, 1]),
        ("nan", [0, 1, 1, 1, 0, 0]),
    ],
)
def test_comparisons_with_nan(name: str, expected: list[int]) -> None:
    body = f"{LOAD} setp.{name}.f32 %p1, %f1, %f2; selp.u32 %r2, 1, 0, %p1; st.global.u32 [%rd2], %r2;"
    assert execute(body, PAIRS, np.uint32).tolist() == expected


def test_a_comparison_joined_with_a_predicate_and_its_opposite() -> None:
    body = """
    setp.gt.u32 %p3, %r1, 1;
    setp.lt.and.u32 %p1|%p2, %r1, 3, %p3;
    selp.u32 %r2, 1, 0, %p1;
    selp.u32 %r3, 2, 0, %p2;
    add.u32 %r2, %r2, %r3;
    st.global.u32 [%rd2], %r2;
    """
    assert execute(body, np.zeros(5, np.float32), np.uint32).tolist() == [0, 0, 1, 2, 2]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rni", [2, 2, -2, 0, 2**31 - 1, -(2**31), 0]),
        ("rzi", [2, 1, -2, 0, 2**31 - 1, -(2**31), 0]),
        ("rmi", [2, 1, -3, -1, 2**31 - 1, -(2**31), 0]),
        ("rpi", [3, 2, -2, 0, 2**31 - 1, -(2**31), 0]),
    ],
)
def test_floats_to_integers(name: str, expected: list[int]) -> None:
    body = f"ld.global.f32 %f1, [%rd1]; cvt.{name}.s32.f32 %r2, %f1; st.global.u32 [%rd2], %r2;"
    values = f32(2.5, 1.5, -2.5, -0.25, 1e20, -INF, NAN)
    assert execute(body, values, np.int32).tolist() == expected


def test_nan_as_a_long_integer_is_its_top_bit() -> None:
    body = "ld.global.f32 %f1, [%rd1]; cvt.rzi.s64.f32 %rd4, %f1; st.global.u64 [%rd2], %rd4;"
    assert execute(body, f32(NAN, 3.7), np.int64).tolist() == [-(2**63), 3]


def test_fp32_to_halves_rounds_to_even() -> None:
    values = np.concatenate([f32(1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 65520, 1e-8, INF, -0.0), _random32(500)])
    body = "ld.global.f32 %f1, [%rd1]; cvt.rn.{0}.f32 %rs1, %f1; st.global.b16 [%rd2], %rs1;"
    import torch

    for kind, dtype in (("f16", torch.float16), ("bf16", torch.bfloat16)):
        expected = torch.from_numpy(values).to(dtype).view(torch.int16).numpy()
        assert execute(body.format(kind), values, np.int16).tolist() == expected.tolist()
        back = f"ld.global.b16 %rs1, [%rd1]; cvt.f32.{kind} %f1, %rs1; st.global.f32 [%rd2], %f1;"
        same(execute(back, expected, np.float32), torch.from_numpy(expected).view(dtype).float().numpy())


def test_two_halves_in_a_register() -> None:
    body = LOAD + "cvt.rn.f16x2.f32 %r2, %f1, %f2; st.global.u32 [%rd2], %r2;"
    (bits,) = execute(body, np.array([[1.0, -2.0]], np.float32), np.uint32)
    assert bits == 0x3C00C000  # the first operand is the upper half


@pytest.mark.parametrize(("operation", "expected"), [("abs", 0x3C004000), ("neg", 0xBC004000)])
def test_signs_of_two_halves(operation: str, expected: int) -> None:
    body = LOAD + f"cvt.rn.f16x2.f32 %r2, %f1, %f2; {operation}.f16x2 %r2, %r2; st.global.u32 [%rd2], %r2;"
    (bits,) = execute(body, np.array([[1.0, -2.0]], np.float32), np.uint32)
    assert bits == expected


def test_arithmetic_on_two_halves_is_unknown() -> None:
    body = LOAD + "cvt.rn.f16x2.f32 %r2, %f1, %f2; add.f16x2 %r2, %r2, %r2; st.global.u32 [%rd2], %r2;"
    with pytest.raises(UnknownPtx, match="f16x2"):
        execute(body, np.array([[1.0, -2.0]], np.float32), np.uint32)


def _random32(count: int) -> np.ndarray:
    bits = np.random.default_rng(1).integers(0, 2**32, count, dtype=np.uint32)
    values = bits.view(np.float32)
    return values[np.isfinite(values)]


def _exact_fma(a: float, b: float, c: float, dtype: type) -> float:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if dtype is np.float64:
        return float(exact)
    near = np.float32(float(exact))
    choices = [near, np.nextafter(near, np.float32(INF)), np.nextafter(near, np.float32(-INF))]
    # The nearest; of two, the one with an even last bit.
    return float(min(choices, key=lambda x: (abs(Fraction(float(x)) - exact), int(x.view(np.uint32)) & 1)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fma_rounds_once(dtype: type) -> None:
    generator = np.random.default_rng(2)
    triples = generator.standard_normal((800, 3)).astype(dtype)
    # Sums that cancel, and those that lie beside the middle of two numbers.
    triples[:400, 2] = -triples[:400, 0] * triples[:400, 1]
    triples[400:500, 2] = generator.standard_normal(100) * 2.0**-30
    kind, register, size = ("f32", "%f", 4) if dtype is np.float32 else ("f64", "%fd", 8)
    loads = "".join(f"ld.global.{kind} {register}{i + 1}, [%rd1+{i * size}]; " for i in range(3))
    fma = f"fma.rn.{kind} {register}4, {register}1, {register}2, {register}3; st.global.{kind} [%rd2], {register}4;"
    actual = execute(loads + fma, triples, dtype)
    assert actual.tolist() == [_exact_fma(*map(float, row), dtype) for row in triples]


def test_fma_rounds_down_where_it_says_so() -> None:
    generator = np.random.default_rng(3)
    triples = generator.standard_normal((800, 3)).astype(np.float32)
    triples[:400, 2] = -triples[:400, 0] * triples[:400, 1]
    triples[400] = [1, 1, -1]  # minus zero
    triples[401] = [2.0**100, 2.0**100, 0]  # the largest number
    loads = "".join(f"ld.global.f32 %f{i + 1}, [%rd1+{i * 4}]; " for i in range(3))
    actual = execute(loads + "fma.rm.f32 %f4, %f1, %f2, %f3; st.global.f32 [%rd2], %f4;", triples, np.float32)
    assert np.signbit(actual[400])
    assert actual[401] == np.finfo(np.float32).max
    triples, actual = np.delete(triples, 401, 0), np.delete(actual, 401)
    above = np.nextafter(actual, np.float32(INF))
    for (a, b, c), low, high in zip(triples.tolist(), actual, above, strict=True):
        assert Fraction(float(low)) <= Fraction(a) * Fraction(b) + Fraction(c) < Fraction(float(high))


def test_integers_divide_towards_zero_and_multiply_to_their_upper_half() -> None:
    values = np.array([[7, 2], [-7, 2], [7, -2], [-7, -2]], np.int32)
    load = "ld.global.v2.u32 {%r2, %r3}, [%rd1]; "
    body = load + "NAME.s32 %r4, %r2, %r3; st.global.u32 [%rd2], %r4;"
    assert execute(body.replace("NAME", "div"), values, np.int32).tolist() == [3, -3, -3, 3]
    assert execute(body.replace("NAME", "rem"), values, np.int32).tolist() == [1, -1, 1, -1]
    wide = np.array([[2**31 - 1, 2**30], [-(2**31), 3]], np.int32)
    products = [int(a) * int(b) >> 32 for a, b in wide]
    assert execute(body.replace("NAME", "mul.hi"), wide, np.int32).tolist() == products


@pytest.mark.parametrize(
    ("name", "expected"),
    [("shl.b32", [1, 1 << 31, 0, 0]), ("shr.s32", [-(2**31), -1, -1, -1]), ("shr.u32", [2**31, 1, 0, 0])],
)
def test_shifts_beyond_the_width(name: str, expected: list[int]) -> None:
    value = 1 if name == "shl.b32" else -(2**31)
    body = f"ld.global.u32 %r2, [%rd1]; {name} %r3, {value}, %r2; st.global.u32 [%rd2], %r3;"
    by = np.array([0, 31, 32, 100], np.uint32)
    assert execute(body, by, np.int32 if name == "shr.s32" else np.uint32).tolist() == expected


@pytest.mark.parametrize(
    ("mode", "by", "clamp", "source"),
    [
        ("bfly", 5, 31, lambda lane: lane ^ 5),
        ("down", 3, 31, lambda lane: lane + 3 if lane < 29 else lane),
        ("up", 3, 0, lambda lane: lane - 3 if lane >= 3 else lane),
        ("idx", 7, 31, lambda lane: 7),
        ("idx", 3, (24 << 8) | 31, lambda lane: lane // 8 * 8 + 3),  # segments of eight lanes
        ("down", 1, (24 << 8) | 31, lambda lane: lane + 1 if lane % 8 < 7 else lane),
    ],
)
def test_shuffles(mode: str, by: int, clamp: int, source: object) -> None:
    body = f"shfl.sync.{mode}.b32 %r2|%p1, %r1, {by}, {clamp}, -1; st.global.u32 [%rd2], %r2;"
    result = execute(body, np.zeros(64, np.float32), np.uint32)
    assert result.tolist() == [lane // 32 * 32 + source(lane % 32) for lane in range(64)]  # type: ignore[operator]


def test_registers_are_taken_apart_and_put_together() -> None:
    body = """
    ld.global.u64 %rd4, [%rd1];
    mov.b64 {%r2, %r3}, %rd4;
    mov.b32 {%rs1, %rs2}, %r3;
    mov.b32 %r3, {%rs2, %rs1};
    mov.b64 %rd5, {%r3, %r2};
    st.global.u64 [%rd2], %rd5;
    """
    (result,) = execute(body, np.array([0x1111222233334444], np.uint64), np.uint64)
    assert result == 0x3333444422221111


def test_a_struct_that_is_a_parameter_is_read_where_lanes_compute() -> None:
    body = """
    mov.b64 %rd4, kernel_param_2;
    mad.wide.u32 %rd4, %r1, 8, %rd4;
    ld.param.u32 %r2, [%rd4];
    st.global.u32 [%rd2], %r2;
    """
    assert execute(body, np.zeros(3, np.float32), np.uint32).tolist() == [5, 6, 7]


def test_a_function_is_called_by_lanes_that_have_parted() -> None:
    body = """
    ld.global.f64 %fd1, [%rd1];
    setp.lt.u32 %p1, %r1, 2;
    @%p1 bra $SKIP;
    {
    .reg .b32 temp_param_reg;
    .param .b64 param0;
    st.param.f64 [param0+0], %fd1;
    .param .b64 retval0;
    call.uni (retval0), half, (param0);
    ld.param.f64 %fd1, [retval0+0];
    }
    $SKIP:
    st.global.f64 [%rd2], %fd1;
    """
    assert execute(body, np.array([1.0, 2.0, 3.0, 4.0]), np.float64).tolist() == [1.0, 2.0, 1.5, 2.0]


def test_flushing_keeps_the_sign_of_a_subnormal() -> None:
    body = "ld.global.f32 %f1, [%rd1]; add.ftz.f32 %f2, %f1, 0f80000000; st.global.f32 [%rd2], %f2;"
    same(execute(body, f32(1e-40, -1e-40, 1.0), np.float32), f32(0.0, -0.0, 1.0))
