"""Devices by name, bfloat16 where it pays, and the many ways to say that memory has run out."""

from __future__ import annotations

import pytest
import torch

from inkwash.device import autocast_dtype, bf16_gain, gains_from_bf16, out_of_memory, pick_device


def test_a_device_is_taken_only_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_device("cpu") == torch.device("cpu")
    for name in ("cpu:3", "xpu"):
        with pytest.raises(ValueError, match=rf"device = {name} is not available here; this torch .* sees .*cpu\."):
            pick_device(name)
    with pytest.raises(ValueError, match=r"no device 'tpu'. Choose auto, cuda, mps, cpu"):
        pick_device("tpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda:1")
    assert pick_device("auto") == torch.device("cuda")
    with pytest.raises(ValueError, match=r"device = cuda:9 is not available .* sees cuda:0, cuda:1, cpu\."):
        pick_device("cuda:9")


def test_auto_precision_asks_a_gpu_what_it_is_and_times_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for gain, expected in ((1.1, None), (1.3, torch.bfloat16)):
        monkeypatch.setattr("inkwash.device.bf16_gain", lambda gain=gain: gain)
        assert autocast_dtype("auto", torch.device("cpu")) == expected
    assert autocast_dtype("auto", torch.device("mps")) is None
    assert autocast_dtype("bf16", torch.device("mps")) == torch.bfloat16
    assert autocast_dtype("fp32", torch.device("cpu")) is None


@pytest.mark.gpu
def test_a_gpu_with_units_for_bf16_uses_them() -> None:
    assert gains_from_bf16(torch.device("cuda")) == (torch.cuda.get_device_capability() >= (8, 0))


def test_timing_draws_nothing_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    assert 0 <= bf16_gain.__wrapped__() < 100
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError("Unable to allocate 7 GiB for an array"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_memory_runs_out_in_many_words(error: Exception) -> None:
    assert out_of_memory(error)


def test_the_cpu_running_out_of_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(raised.value)
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not out_of_memory(ValueError("can't allocate memory"))
