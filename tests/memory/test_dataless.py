"""Tensors without data behave as real ones do, in all but their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.refusals import Kind, raises
from torch.nn import functional

from napari_tessera.core.errors import ModelError
from napari_tessera.memory.dataless import NOWHERE, DatalessMode, DatalessTensor, storage_of, tensors_in

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
aten = torch.ops.aten

CALLS: dict[str, Callable[[torch.Tensor], Any]] = {
    "a layer": lambda x: functional.conv2d(x, x.new_zeros(3, 2, 3, 3), padding=1),
    "a norm": lambda x: functional.instance_norm(x),
    "in place": lambda x: functional.leaky_relu_(x),
    "a view": lambda x: x.permute(0, 2, 3, 1).flatten(1, 2),
    "a view in disguise": lambda x: aten._unsafe_view.default(x, [2, 2, 48]),
    "parts": lambda x: x.split(1),
    "new parts": lambda x: aten.native_layer_norm.default(x, [8], None, None, 1e-5),
    "the same, to be written elsewhere": lambda x: torch.add(x, x, out=x.new_empty(x.shape)),
    "another shape in place": lambda x: x.unsqueeze_(0).transpose_(1, 2),
    "resized": lambda x: x.clone().resize_(3, 3),
    "an integer's sum": lambda x: x.to(torch.int64) + 1,
    "a fraction's sum": lambda x: x.to(torch.int64) + 1.0,
    "a truth's sum": lambda x: x.to(torch.bool) + True,
    "a number on the host": lambda x: x * torch.tensor(2.0),
    "by channels last": lambda x: functional.relu(x.contiguous(memory_format=torch.channels_last)),
    "expanded": lambda x: x[:1].expand(4, -1, -1, -1) + 1,
    "nothing": lambda x: x.new_empty(0) * 2,
}


def outcome(x: torch.Tensor, call: Callable[[torch.Tensor], Any]) -> list[Any]:
    """What can be seen of the results: layouts, whether they are *x*, and which share memory."""
    first, second = list(tensors_in(call(x))), list(tensors_in(call(x)))
    storages = [storage_of(x)._cdata] + [storage_of(t)._cdata for t in (*first, *second)]
    return [
        [(t.size(), t.stride(), t.storage_offset(), t.dtype) for t in (x, *first, *second)],
        [t is x for t in (*first, *second)],
        [storages.index(storage) for storage in storages],
        [storage_of(t).nbytes() for t in (x, *first, *second)],
    ]


@pytest.mark.parametrize("name", CALLS)
def test_results_are_laid_out_and_shared_as_real_ones(name: str) -> None:
    real = torch.zeros(2, 2, 12, 8)[:, :, ::2]
    with torch.no_grad():
        expected = outcome(real.clone(), CALLS[name])
        twin = DatalessTensor(torch.empty(2, 2, 6, 8, device="meta"), CPU)
        with DatalessMode():
            assert outcome(twin, CALLS[name]) == expected


def test_results_are_where_real_ones_would_be() -> None:
    x = DatalessTensor(torch.empty(2, 3, device="meta"), CUDA)
    with DatalessMode():
        assert x.device == torch.device("cuda", NOWHERE)
        made = [torch.zeros(3), torch.zeros(3, device="cuda"), x.cpu(), x.cpu().to(x.device), x + x.cpu().sum()]
        assert all(isinstance(tensor, DatalessTensor) for tensor in made)
        assert [tensor.device.type for tensor in made] == ["cpu", "cuda", "cpu", "cuda", "cuda"]


def test_moving_within_a_device_is_no_copy() -> None:
    x = DatalessTensor(torch.empty(2, 3, device="meta"), CPU)
    with DatalessMode():
        assert storage_of(x.cpu())._cdata == storage_of(x)._cdata
        assert storage_of(torch.zeros(2, 3).to(x.device) + x)._cdata != storage_of(x)._cdata
        assert storage_of(x.to(torch.float16))._cdata != storage_of(x)._cdata


def test_away_from_its_mode_it_is_of_no_use() -> None:
    x = DatalessTensor(torch.empty(2, 3, device="meta"), CPU)
    with raises(ModelError, Kind.KEEPS_A_TENSOR):
        _ = torch.ones(2, 3) * x


def test_nothing_of_it_has_data() -> None:
    with DatalessMode():
        huge = torch.ones(1 << 20, 1 << 20) + torch.ones(1 << 20)
    assert huge.data_ptr() == 0
    assert storage_of(huge).nbytes() == 4 << 40
