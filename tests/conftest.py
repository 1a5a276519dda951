import os

import pytest
import torch

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach for the network
os.environ["HF_DATASETS_OFFLINE"] = "1"


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the slow tests too (make test-all)")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes minutes; runs with --slow")
    torch.set_num_threads(1)


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: run it with make test-all"))


@pytest.fixture(autouse=True)
def no_profiler_stays_on():
    """A run that fails in its first two steps leaves the Meter's profiler on, and every later test would fill its memory."""
    yield
    if torch.autograd._profiler_enabled():
        torch.autograd._disable_profiler()
        torch.autograd.profiler._is_profiler_enabled = False
