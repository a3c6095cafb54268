"""The noise scale that a policy implies."""

from __future__ import annotations

__all__ = ["noise_scale"]


def noise_scale(lr: float, batch_size: float, momentum: float, examples: int) -> float:
    """g = lr (N/B - 1) / (1 - m), in units of lr x examples; about lr N / (B (1 - m)) while B << N.

    Smith et al. 2018 (arXiv 1711.00489), section 2, with the momentum of its equation 9. `lr` is for the mean loss.
    Raises ValueError unless 0 <= momentum < 1 and 1 <= batch_size <= examples.

    >>> round(noise_scale(lr=0.1, batch_size=128, momentum=0.9, examples=50_000), 3)
    389.625
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"0 <= momentum < 1 must hold, but got momentum={momentum}")
    if not 1 <= batch_size <= examples:
        raise ValueError(f"1 <= batch_size <= examples must hold, but got batch_size={batch_size}, examples={examples}")
    return lr * (examples / batch_size - 1) / (1 - momentum)
