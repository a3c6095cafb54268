"""Ghost batch norm: batch-norm statistics over a fixed number of examples, however large the batch is."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["GhostBatchNorm", "has_batch_norm", "use_ghost_batches"]


class GhostBatchNorm(nn.BatchNorm2d):
    """Batch norm over ghost batches of k = `ghost_size` consecutive examples (Hoffer et al. 2017, arXiv 1705.08741).

    Takes [n, C, H, W] or [n, C]. In training, chunk i = examples [i k, (i+1) k) of the batch is normalised by its own
    mean and variance; the remainder n mod k joins the last chunk, which then has up to 2k - 1 examples; a batch below
    2k is one chunk. Sizes that divide take one fused call. The running statistics, of shape [C], are those that batch
    norm would have after seeing the chunks one after another; evaluation uses them as batch norm does.

    >>> norm = GhostBatchNorm(3, ghost_size=2)
    >>> norm(torch.randn(4, 3, 5, 5)).shape
    torch.Size([4, 3, 5, 5])
    """

    def __init__(self, channels: int, ghost_size: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)
        self.ghost_size = ghost_size

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
        if input.dim() not in (2, 4):
            raise ValueError(f"[n, C, H, W] or [n, C] must hold, but got shape {list(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        chunks = input.shape[0] // self.ghost_size
        if not self.training or chunks <= 1:
            return super().forward(input)
        self._check_input_dim(input)
        fused = chunks if input.shape[0] % self.ghost_size == 0 else chunks - 1
        head, tail = input[: fused * self.ghost_size], input[fused * self.ghost_size :]
        normalised = self._normalise(head, fused)
        return torch.cat([normalised, super().forward(tail)]) if len(tail) else normalised

    def _normalise(self, x: Tensor, chunks: int) -> Tensor:
        """All chunks at once: chunk and channel become one channel axis, [k, chunks * C, H, W]."""
        channels, k = self.num_features, self.ghost_size
        shape = x.shape[2:]
        stacked = x.reshape(chunks, k, channels, *shape).transpose(0, 1).reshape(k, chunks * channels, *shape)
        mean, var = x.new_zeros(2, chunks * channels, dtype=self.weight.dtype)
        # With momentum 1 the running statistics come back as the chunks' own: mean and unbiased variance.
        out = functional.batch_norm(
            stacked, mean, var, self.weight.repeat(chunks), self.bias.repeat(chunks), True, 1.0, self.eps
        )
        self._track(mean.view(chunks, channels), var.view(chunks, channels))
        return out.reshape(k, chunks, channels, *shape).transpose(0, 1).reshape(x.shape)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor) -> None:
        """Running statistics after `momentum`-weighted updates by each chunk in turn; mean and var are [chunks, C]."""
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        chunks, keep = len(mean), 1 - self.momentum
        weights = self.momentum * keep ** torch.arange(chunks - 1, -1, -1, device=mean.device, dtype=mean.dtype)
        for running, seen in ((self.running_mean, mean), (self.running_var, var)):
            running.mul_(keep**chunks).add_(weights @ seen)
        self.num_batches_tracked.add_(chunks)

    def extra_repr(self) -> str:
        return f"{self.num_features}, ghost_size={self.ghost_size}"


def has_batch_norm(model: nn.Module) -> bool:
    """Whether any layer takes statistics over the batch."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def use_ghost_batches(model: nn.Module, ghost_size: int) -> None:
    """Turns every BatchNorm2d and BatchNorm1d of the model into a GhostBatchNorm with the same parameters, in place.

    Also timm's BatchNormAct2d, whose activation then follows the GhostBatchNorm. Raises ValueError for another kind of
    batch norm, and for a layer without momentum (a cumulative average) or without scale and shift.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, GhostBatchNorm):
                setattr(module, name, _ghost_of(child, ghost_size))


def _ghost_of(norm: nn.modules.batchnorm._BatchNorm, ghost_size: int) -> nn.Module:
    # A subclass may do more, which must not get lost. timm's is known by its name, as timm need not be there.
    kind = type(norm)
    if kind not in (nn.BatchNorm1d, nn.BatchNorm2d) and kind.__name__ != "BatchNormAct2d":
        raise ValueError(
            f"BatchNorm1d, BatchNorm2d or BatchNormAct2d must hold for ghost batches, but got {kind.__name__}"
        )
    if norm.momentum is None or not norm.affine:
        raise ValueError(f"momentum and affine parameters must be set for ghost batches, but got {norm}")
    ghost = GhostBatchNorm(norm.num_features, ghost_size, norm.eps, norm.momentum)
    ghost.load_state_dict(norm.state_dict())
    after = list(norm.children())
    return nn.Sequential(ghost, *after) if after else ghost
