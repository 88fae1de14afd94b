"""Model files for tests of reading and writing."""

import torch

from lors.checkpoint.writer import CheckpointWriter


def file_names(directory):
    return sorted(path.name for path in directory.iterdir())


def some_state():
    """Tensors of several shapes and dtypes."""
    generator = torch.Generator().manual_seed(0)
    return {
        "z.weight": torch.randn(4, 3, generator=generator),
        "a.bias": torch.randn(4, generator=generator).half(),
        "norm.num_batches_tracked": torch.tensor(7),
        "conv.weight": torch.randn(2, 3, 5, generator=generator).bfloat16(),
    }


def torch_save(path, content, **options):
    torch.save(content, path, **options)
    return path


def write(path, state):
    """Write a state dict with the CheckpointWriter."""
    with CheckpointWriter(path, {n: (tuple(t.shape), t.dtype) for n, t in state.items()}) as writer:
        for name, tensor in state.items():
            writer.add(name, tensor)


def assert_holds(opened, state):
    assert set(opened.names()) == set(state)
    for name, tensor in state.items():
        assert opened.shape(name) == tuple(tensor.shape)
        assert opened.dtype(name) == tensor.dtype
        assert torch.equal(opened.tensor(name), tensor)
