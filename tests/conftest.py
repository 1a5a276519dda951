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
    """What a run that failed leaves on would follow every later test, and fill the memory."""
    yield
    on = torch.autograd._profiler_enabled()
    if on:
        torch.autograd._disable_profiler()
        torch.autograd.profiler._is_profiler_enabled = False
    assert not on
