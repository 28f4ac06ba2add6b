"""Half precision where a device computes with it."""

from __future__ import annotations

import torch


def half_precision(device: str | torch.device) -> torch.autocast:
    """float16 on a GPU, bfloat16 on processors that reckon in it (a third of the time or less), else float32."""
    if torch.device(device).type == "cuda":
        return torch.autocast("cuda", torch.float16)
    able = torch.cpu.get_capabilities()
    return torch.autocast("cpu", torch.bfloat16, enabled=bool(able.get("avx512_bf16") or able.get("amx_bf16")))
