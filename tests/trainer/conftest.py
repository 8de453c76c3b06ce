"""Torch on one thread: tests run beside others, and barriers between threads are what hurts."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
