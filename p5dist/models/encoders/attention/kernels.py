"""Triton kernels of attention over histories of any length that lie one after the other.

Scores exist for one tile of queries and keys at a time, so that neither padding nor a square of the
length is ever in memory. Two activations: the softmax (with the running maximum of FlashAttention,
Dao et al. 2022), and the SiLU of HSTU (Zhai et al. 2024), divided by the number of keys that the
query sees. Biases by distance and by class of time difference are looked up inside the tile, and
their gradients are added up in copies of the small tables.

A program works on one head of one history. Tensors are [T, heads, width]; the three of q, k and v
are views of one packed tensor and share their strides.
"""

from __future__ import annotations

import triton
import triton.language as tl

COPIES = tl.constexpr(32)
"""Of the gradient of a table of biases: programs of different histories add to different copies."""


@triton.jit
def _product(a, b, PRECISION: tl.constexpr):
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def _interval(time_m, time_n):
    """Class of the time difference: the exponent of 1 + |difference| as a float, at most 32."""
    gap = (tl.abs(time_m[:, None] - time_n[None, :]) + 1.0).to(tl.float32)
    return tl.minimum((gap.to(tl.int32, bitcast=True) >> 23) - 127, 32)


@triton.jit
def _distance(m, n, longest, middle):
    """Place of the bias; also of rows beyond the end of a history, which a mask leaves out."""
    return tl.maximum(tl.minimum(m[:, None] - n[None, :], longest), -middle) + middle


@triton.jit
def _scores(
    q, k, m, n, time_m, time_n, DISTANCE, INTERVAL, shift, longest, middle, scale,
    HAS_DISTANCE: tl.constexpr, HAS_INTERVAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[M, N] scaled products and biases of queries ``q`` [M, D] and keys ``k`` [N, D]; the row of
    the head in the table of intervals begins at ``shift``."""
    found = _product(q, tl.trans(k), PRECISION) * scale
    if HAS_DISTANCE:
        found += tl.load(DISTANCE + _distance(m, n, longest, middle)).to(tl.float32)
    if HAS_INTERVAL:
        found += tl.load(INTERVAL + shift + _interval(time_m, time_n)).to(tl.float32)
    return found


@triton.jit
def _tile(POINTER, rows, there, stride, channel, width):
    """[rows, D] a tile of one head; zero where there is no row or channel."""
    mask = there[:, None] & (channel[None, :] < width)
    return tl.load(POINTER + rows[:, None] * stride + channel[None, :], mask=mask, other=0.0)


@triton.jit
def _store(POINTER, rows, there, stride, channel, width, values):
    mask = there[:, None] & (channel[None, :] < width)
    place = POINTER + rows[:, None] * stride + channel[None, :]
    tl.store(place, values.to(POINTER.dtype.element_ty), mask=mask)


@triton.jit
def attend_forward(
    Q, K, V, OUT, LOG_SUM, OFFSETS, TIMES, DISTANCE, INTERVAL,
    stride, stride_out, stride_interval, heads, width, longest, middle, scale,
    SOFTMAX: tl.constexpr, CAUSAL: tl.constexpr, HAS_DISTANCE: tl.constexpr,
    HAS_INTERVAL: tl.constexpr, PRECISION: tl.constexpr, D: tl.constexpr, M: tl.constexpr,
    N: tl.constexpr,
):  # fmt: skip
    """OUT [T, heads, width], and for the softmax LOG_SUM [T, heads] log Σ exp of the scores."""
    history, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    begin = tl.load(OFFSETS + history)
    length = (tl.load(OFFSETS + history + 1) - begin).to(tl.int32)
    first = tl.program_id(1) * M
    if first >= length:
        return
    m, channel = first + tl.arange(0, M), tl.arange(0, D)
    there_m, head_at = m < length, head * width
    q = _tile(Q + head_at, begin + m, there_m, stride, channel, width)
    time_m = m.to(tl.float64)
    if HAS_INTERVAL:
        time_m = tl.load(TIMES + begin + m, mask=there_m, other=0.0)
    out = tl.zeros([M, D], dtype=tl.float32)
    top = tl.full([M], -1e30, dtype=tl.float32)
    total = tl.zeros([M], dtype=tl.float32)
    end = length
    if CAUSAL:
        end = tl.minimum(first + M, length)
    for first_n in range(0, end, N):
        n = first_n + tl.arange(0, N)
        there_n = n < length
        k = _tile(K + head_at, begin + n, there_n, stride, channel, width)
        v = _tile(V + head_at, begin + n, there_n, stride, channel, width)
        time_n = n.to(tl.float64)
        if HAS_INTERVAL:
            time_n = tl.load(TIMES + begin + n, mask=there_n, other=0.0)
        s = _scores(
            q, k, m, n, time_m, time_n, DISTANCE, INTERVAL, head * stride_interval, longest,
            middle, scale, HAS_DISTANCE, HAS_INTERVAL, PRECISION,
        )  # fmt: skip
        seen = there_m[:, None] & there_n[None, :]
        if CAUSAL:
            seen = seen & (n[None, :] <= m[:, None])
        if SOFTMAX:
            s = tl.where(seen, s, -1e30)
            new = tl.maximum(top, tl.max(s, 1))
            p = tl.where(seen, tl.exp(s - new[:, None]), 0.0)
            old = tl.exp(top - new)
            total = total * old + tl.sum(p, 1)
            out = out * old[:, None]
            top = new
        else:
            p = tl.where(seen, s * tl.sigmoid(s), 0.0)
        out += _product(p.to(v.dtype), v, PRECISION)
    if SOFTMAX:
        out = out / tl.maximum(total, 1e-30)[:, None]
        tl.store(LOG_SUM + (begin + m) * heads + head, top + tl.log(total), mask=there_m)
    else:
        if CAUSAL:
            out = out / (m + 1).to(tl.float32)[:, None]
        else:
            out = out / length.to(tl.float32)
    _store(OUT + head_at, begin + m, there_m, stride_out, channel, width, out)


@triton.jit
def _slopes(
    q, k, v, grad, m, n, time_m, time_n, log_sum, delta, seen, DISTANCE, INTERVAL, shift, longest,
    middle, scale, SOFTMAX: tl.constexpr, HAS_DISTANCE: tl.constexpr, HAS_INTERVAL: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """[M, N] weights of the values, and gradients of the scores. ``grad`` [M, D] is that of the
    output, for SiLU divided by the number of keys."""
    s = _scores(
        q, k, m, n, time_m, time_n, DISTANCE, INTERVAL, shift, longest, middle, scale,
        HAS_DISTANCE, HAS_INTERVAL, PRECISION,
    )  # fmt: skip
    of_p = _product(grad, tl.trans(v), PRECISION)
    if SOFTMAX:
        p = tl.where(seen, tl.exp(s - log_sum[:, None]), 0.0)
        of_s = p * (of_p - delta[:, None])
    else:
        gate = tl.sigmoid(s)
        p = tl.where(seen, s * gate, 0.0)
        of_s = tl.where(seen, of_p * gate * (1.0 + s * (1.0 - gate)), 0.0)
    return p, of_s


@triton.jit
def _queries(
    Q, GRAD, LOG_SUM, DELTA, TIMES, begin, m, length, head, heads, stride, stride_out, channel,
    width, SOFTMAX: tl.constexpr, CAUSAL: tl.constexpr, HAS_INTERVAL: tl.constexpr,
):  # fmt: skip
    """What the backward pass reads of queries ``m``."""
    there = m < length
    q = _tile(Q + head * width, begin + m, there, stride, channel, width)
    grad = _tile(GRAD + head * width, begin + m, there, stride_out, channel, width)
    log_sum, delta = tl.zeros(m.shape, tl.float32), tl.zeros(m.shape, tl.float32)
    if SOFTMAX:
        log_sum = tl.load(LOG_SUM + (begin + m) * heads + head, mask=there, other=0.0)
        delta = tl.load(DELTA + (begin + m) * heads + head, mask=there, other=0.0)
    else:
        if CAUSAL:
            grad = (grad / (m + 1).to(tl.float32)[:, None]).to(grad.dtype)
        else:
            grad = (grad / length.to(tl.float32)).to(grad.dtype)
    time = m.to(tl.float64)
    if HAS_INTERVAL:
        time = tl.load(TIMES + begin + m, mask=there, other=0.0)
    return q, grad, log_sum, delta, time, there


@triton.jit
def attend_backward_keys(
    Q, K, V, GRAD, LOG_SUM, DELTA, OFFSETS, TIMES, DISTANCE, INTERVAL,
    OF_K, OF_V, OF_DISTANCE, OF_INTERVAL,
    stride, stride_out, stride_interval, heads, width, longest, middle, scale,
    size_distance, size_interval,
    SOFTMAX: tl.constexpr, CAUSAL: tl.constexpr, HAS_DISTANCE: tl.constexpr,
    HAS_INTERVAL: tl.constexpr, PRECISION: tl.constexpr, D: tl.constexpr, M: tl.constexpr,
    N: tl.constexpr,
):  # fmt: skip
    """Gradients of keys, values and biases: a program has N keys and walks over the queries."""
    history, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    begin = tl.load(OFFSETS + history)
    length = (tl.load(OFFSETS + history + 1) - begin).to(tl.int32)
    first_n = tl.program_id(1) * N
    if first_n >= length:
        return
    n, channel = first_n + tl.arange(0, N), tl.arange(0, D)
    there_n = n < length
    k = _tile(K + head * width, begin + n, there_n, stride, channel, width)
    v = _tile(V + head * width, begin + n, there_n, stride, channel, width)
    time_n = n.to(tl.float64)
    if HAS_INTERVAL:
        time_n = tl.load(TIMES + begin + n, mask=there_n, other=0.0)
    of_k = tl.zeros([N, D], dtype=tl.float32)
    of_v = tl.zeros([N, D], dtype=tl.float32)
    copy = tl.program_id(0) % COPIES
    begin_m = 0
    if CAUSAL:
        begin_m = first_n // M * M
    for first_m in range(begin_m, length, M):
        m = first_m + tl.arange(0, M)
        q, grad, log_sum, delta, time_m, there_m = _queries(
            Q, GRAD, LOG_SUM, DELTA, TIMES, begin, m, length, head, heads, stride, stride_out,
            channel, width, SOFTMAX, CAUSAL, HAS_INTERVAL,
        )  # fmt: skip
        seen = there_m[:, None] & there_n[None, :]
        if CAUSAL:
            seen = seen & (n[None, :] <= m[:, None])
        p, of_s = _slopes(
            q, k, v, grad, m, n, time_m, time_n, log_sum, delta, seen, DISTANCE,
            INTERVAL, head * stride_interval, longest, middle, scale, SOFTMAX, HAS_DISTANCE,
            HAS_INTERVAL, PRECISION,
        )  # fmt: skip
        of_v += _product(tl.trans(p).to(grad.dtype), grad, PRECISION)
        of_k += _product(tl.trans(of_s).to(q.dtype), q, PRECISION)
        if HAS_DISTANCE:
            place = OF_DISTANCE + copy * size_distance + _distance(m, n, longest, middle)
            tl.atomic_add(place, of_s, mask=seen, sem="relaxed")
        if HAS_INTERVAL:
            place = OF_INTERVAL + copy * size_interval + head * stride_interval
            tl.atomic_add(place + _interval(time_m, time_n), of_s, mask=seen, sem="relaxed")
    _store(OF_K + head * width, begin + n, there_n, stride, channel, width, of_k * scale)
    _store(OF_V + head * width, begin + n, there_n, stride, channel, width, of_v)


@triton.jit
def attend_backward_queries(
    Q, K, V, GRAD, LOG_SUM, DELTA, OFFSETS, TIMES, DISTANCE, INTERVAL, OF_Q,
    stride, stride_out, stride_interval, heads, width, longest, middle, scale,
    SOFTMAX: tl.constexpr, CAUSAL: tl.constexpr, HAS_DISTANCE: tl.constexpr,
    HAS_INTERVAL: tl.constexpr, PRECISION: tl.constexpr, D: tl.constexpr, M: tl.constexpr,
    N: tl.constexpr,
):  # fmt: skip
    """Gradients of queries: a program has M queries and walks over the keys."""
    history, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    begin = tl.load(OFFSETS + history)
    length = (tl.load(OFFSETS + history + 1) - begin).to(tl.int32)
    first = tl.program_id(1) * M
    if first >= length:
        return
    m, channel = first + tl.arange(0, M), tl.arange(0, D)
    q, grad, log_sum, delta, time_m, there_m = _queries(
        Q, GRAD, LOG_SUM, DELTA, TIMES, begin, m, length, head, heads, stride, stride_out,
        channel, width, SOFTMAX, CAUSAL, HAS_INTERVAL,
    )  # fmt: skip
    of_q = tl.zeros([M, D], dtype=tl.float32)
    end = length
    if CAUSAL:
        end = tl.minimum(first + M, length)
    for first_n in range(0, end, N):
        n = first_n + tl.arange(0, N)
        there_n = n < length
        k = _tile(K + head * width, begin + n, there_n, stride, channel, width)
        v = _tile(V + head * width, begin + n, there_n, stride, channel, width)
        time_n = n.to(tl.float64)
        if HAS_INTERVAL:
            time_n = tl.load(TIMES + begin + n, mask=there_n, other=0.0)
        seen = there_m[:, None] & there_n[None, :]
        if CAUSAL:
            seen = seen & (n[None, :] <= m[:, None])
        _, of_s = _slopes(
            q, k, v, grad, m, n, time_m, time_n, log_sum, delta, seen, DISTANCE,
            INTERVAL, head * stride_interval, longest, middle, scale, SOFTMAX, HAS_DISTANCE,
            HAS_INTERVAL, PRECISION,
        )  # fmt: skip
        of_q += _product(of_s.to(k.dtype), k, PRECISION)
    _store(OF_Q + head * width, begin + m, there_m, stride, channel, width, of_q * scale)
