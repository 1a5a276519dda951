"""The memory of a step without running it, beside what torch's allocator holds when it runs; and what fits where."""

import os
import weakref
from contextlib import contextmanager

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.memory import DEVICES, USABLE, Device, Memory, fit, training_memory
from zoo.mtp import MTP
from zoo.ntp import NextToken
from zoo.optim import AdamW, Muon
from zoo.shard import shard

VOCAB, CONTEXT, BATCH = 4096, 128, 4
NETS = {
    "next token": lambda: NextToken(VOCAB, CONTEXT, 128, 6, 4),
    "gpt2, recomputed": lambda: NextToken(VOCAB, CONTEXT, 128, 6, 4, flavour="gpt2", checkpoint=True),
    "n = 1": lambda: MTP(VOCAB, CONTEXT, 1, 128, 6, 4),
    "n = 4": lambda: MTP(VOCAB, CONTEXT, 4, 128, 6, 4),
    "n = 4, joint": lambda: MTP(VOCAB, CONTEXT, 4, 128, 6, 4, backward="joint"),
    "n = 4, naive": lambda: MTP(VOCAB, CONTEXT, 4, 128, 6, 4, backward="naive"),
    "causal": lambda: MTP(VOCAB, CONTEXT, 4, 128, 6, 4, arrangement="causal"),
    "anticausal + 2, recomputed": lambda: MTP(VOCAB, CONTEXT, 4, 128, 6, 4, arrangement="anticausal", extra=2, checkpoint=True),
    "linear": lambda: MTP(VOCAB, CONTEXT, 4, 128, 4, 4, head="linear"),
    "replicated": lambda: MTP(257, CONTEXT, 8, 128, 4, 4, unembeddings="replicated"),
    "replicated, joint": lambda: MTP(257, CONTEXT, 8, 128, 4, 4, unembeddings="replicated", backward="joint"),
}


def like(batch=BATCH, length=CONTEXT + 4, device="meta"):
    tokens = torch.empty(batch, length, dtype=torch.long, device=device)
    return {"tokens": tokens, "mask": torch.empty(batch, length, dtype=torch.bool, device=device)}


def step(net, optimizer, batch, precision, accumulate=1):
    optimizer.zero_grad()
    for _ in range(accumulate):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed", cache_enabled=False):
            loss = net(batch)["loss"]
        loss.backward()
        del loss
    optimizer.step()


def measured(make_net, make_optimizer, precision, accumulate=1) -> int:
    """Most bytes that torch's allocator held in the second of two real steps, everything from the weights on counted."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # it complains of a missing GPU otherwise
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        net = make_net()
        optimizer = make_optimizer(net)
        shape = BATCH, CONTEXT + net.ahead
        batch = {"tokens": torch.randint(net.vocab, shape), "mask": torch.ones(shape, dtype=torch.bool)}
        step(net, optimizer, batch, precision, accumulate)
        with record_function("second"):
            pass
        step(net, optimizer, batch, precision, accumulate)
    held = peak = 0
    for event in sorted(seen.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "second":
            peak = held
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


CASES = [(name, "bf16-mixed", AdamW, 1) for name in NETS]
CASES += [(name, "32-true", AdamW, 1) for name in ("next token", "n = 4", "n = 4, joint", "causal", "replicated")]
CASES += [("n = 4", "32-true", Muon, 1), ("next token", "bf16-mixed", Muon, 1), ("n = 4", "32-true", AdamW, 3)]
CASES += [("next token", "bf16-mixed", AdamW, 2)]


@pytest.mark.parametrize("name, precision, optimizer, accumulate", CASES)
def test_a_real_step_holds_what_was_foretold(name, precision, optimizer, accumulate):
    real = measured(NETS[name], optimizer, precision, accumulate)
    with torch.device("meta"):
        ahead = NETS[name]().ahead
    told = training_memory(NETS[name], optimizer, like(length=CONTEXT + ahead), precision, accumulate).peak
    assert told == pytest.approx(real, rel=0.05)  # promised: 15 %; found: 0.1 %


def test_parts():
    small, large = (training_memory(NETS["next token"], AdamW, like(batch, CONTEXT + 1)) for batch in (4, 8))
    net = NETS["next token"]()
    weights = sum(p.numel() * 4 for p in net.parameters())
    scalars = 4 * len(list(net.parameters()))  # AdamW counts the steps of each parameter
    for found in (small, large):
        assert (found.weights, found.gradients, found.optimizer) == (weights, weights, 2 * weights + scalars)
        assert found.root == (2 * VOCAB * 128 + 128) * 4 and found.block == (weights - found.root) // 6
    assert 1.7 * small.activations < large.activations < 2 * small.activations  # the chunk's logits are there once
    half = training_memory(NETS["next token"], AdamW, like(length=CONTEXT + 1), "bf16-true")
    assert half.weights == weights // 2 and half.activations < small.activations


def test_head_by_head_does_not_grow_with_n_and_naive_does():
    def peak(n, backward):
        make = lambda: MTP(VOCAB, CONTEXT, n, 128, 8, 4, backward=backward)
        return training_memory(make, AdamW, like(length=CONTEXT + n)).peak

    assert peak(7, "head-by-head") <= peak(1, "head-by-head")
    assert peak(7, "naive") > 2 * peak(1, "naive")


def test_a_gpu_keeps_less_of_its_norms_and_more_logits():
    made = {chunk: lambda chunk=chunk: NextToken(VOCAB, CONTEXT, 128, 6, 4, chunk=chunk) for chunk in (None, 64)}
    batch = like(length=CONTEXT + 1)
    cpu, gpu = (training_memory(made[64], AdamW, batch, gpu=gpu).activations for gpu in (False, True))
    vector = BATCH * CONTEXT * 128 * 4
    assert 0.8 * 12 * vector < cpu - gpu < 1.3 * 13 * vector  # two norms a block, and the last
    assert training_memory(made[None], AdamW, batch, gpu=True).activations > gpu + (BATCH * CONTEXT - 64) * VOCAB * 4


def test_unknown_precision_is_one_sentence():
    with pytest.raises(ValueError, match="'transformer-engine' is not known"):
        training_memory(NETS["next token"], AdamW, like(), "transformer-engine")


# -- FSDP2: the formula beside the real thing, on fake tensors and a fake group of processes -----------------------------
class Follower(TorchDispatchMode):
    """Bytes of all storages alive, FSDP2's resizing of them included."""

    def __init__(self):
        super().__init__()
        self.sizes, self.refs, self.held, self.peak = {}, {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor):
                self.note(getattr(x, "_local_tensor", x).untyped_storage())
        return out

    def note(self, storage):
        key = storage._cdata
        if key not in self.refs:
            self.refs[key] = weakref.ref(storage, lambda _: self.gone(key))
        self.held += storage.nbytes() - self.sizes.get(key, 0)
        self.sizes[key] = storage.nbytes()
        self.peak = max(self.peak, self.held)

    def gone(self, key):
        del self.refs[key]
        self.held -= self.sizes.pop(key)


@contextmanager
def pretended(devices):
    """A mesh of so many devices in this one process; collectives do nothing."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    pytest.importorskip("torch.distributed._tools.fake_collectives")
    store = pytest.importorskip("torch.testing._internal.distributed.fake_pg").FakeStore()
    dist.init_process_group("fake", rank=0, world_size=devices, store=store)
    try:
        yield init_device_mesh("cpu", (devices,), mesh_dim_names=("data_parallel",))
    finally:
        dist.destroy_process_group()


SHARDED = [
    ("next token", 2),
    ("n = 4", 8),
    ("gpt2, recomputed", 2),
    ("wide", 64),
    ("causal", 4),
    ("replicated", 4),
]


@pytest.mark.parametrize("name, devices", SHARDED)
def test_sharded_formula_agrees_with_fsdp2(name, devices, monkeypatch):
    make = {**NETS, "wide": lambda: MTP(512, CONTEXT, 4, 384, 8, 4)}[name]
    resize = torch.UntypedStorage.resize_
    with pretended(devices) as mesh, FakeTensorMode(allow_non_fake_inputs=True), Follower() as follower:
        monkeypatch.setattr(torch.UntypedStorage, "resize_", lambda x, n: (resize(x, n), follower.note(x)))
        net = make()
        shard(net, mesh)
        optimizer = AdamW(net)
        batch = {name: x[:, : CONTEXT + net.ahead].clone() for name, x in like(length=CONTEXT + 8, device="cpu").items()}
        step(net, optimizer, batch, "bf16-mixed")
        follower.peak = 0
        step(net, optimizer, batch, "bf16-mixed", 2)
        monkeypatch.undo()
    told = training_memory(make, AdamW, like(length=CONTEXT + net.ahead), "bf16-mixed", 2, sharded=True)
    assert told.sharded(devices) == pytest.approx(follower.peak, rel=0.15)
    assert told.sharded(devices) < told.replicated(devices)


# -- where it fits -------------------------------------------------------------------------------------------------
def needs(state: float, window: float):
    """memory(...) of a net with so many GiB of weights, gradients and optimizer state, and of activations per window."""

    def memory(batch, accumulate, sharded):
        assert accumulate >= 1
        state_bytes, activations = int(state * 2**30 / 4), int(window * batch * 2**30)
        peak = 4 * state_bytes + activations
        return Memory(state_bytes, state_bytes, 2 * state_bytes, activations, peak, 0, 0)

    return memory


CARD = Device("card", 1e12, 10 / USABLE)  # ten GiB can be used


@pytest.mark.parametrize(
    "state, window, own, devices, expected",
    [
        (4, 1, 1, None, (1, "single", 4, 2)),  # 4 + 4
        (4, 2, 1, None, (1, "single", 2, 4)),  # fewer windows at a time before a second device
        (17, 1, 1, None, (2, "fsdp2", 1, 4)),  # 8.5 + 1
        (4, 1, 16, None, (16, "ddp", 4, 2)),  # 4 + 1 (buckets) + 4
        (64, 1, 16, None, (16, "fsdp2", 4, 2)),  # 4 + 4
        (4, 1, 16, 1, (1, "single", 4, 32)),
        (64, 1, 16, 8, (8, "fsdp2", 2, 8)),  # 8 + 2
        (400, 1, 16, None, (64, "fsdp2", 2, 1)),  # 6.25 + 2; 25 on 16, 12.5 on 32
        (4, 1, 16, 64, (64, "ddp", 2, 1)),
    ],
)
def test_fit(state, window, own, devices, expected):
    found = fit(needs(state, window), 4, 2, own, CARD, devices)
    assert (found.devices, found.strategy, found.batch, found.accumulate) == expected
    assert found.batch * found.accumulate * found.devices == 4 * 2 * own  # a step keeps its windows
    assert found.memory <= 10 * 2**30 and found.per_node * found.nodes == found.devices and found.per_node <= 8


@pytest.mark.parametrize(
    "window, own, devices, words",
    [
        (11, 1, None, "does not fit on any number up to 1024 of card, where a device needs 19.0 GiB and can use 10.0"),
        (1, 16, 2, "does not fit on 2 of card"),
        (1, 16, 12, "multiple of 8"),
        (1, 3, 2, None),
        (1, 3, 5, "5 devices cannot share the 24 windows"),
    ],
)
def test_what_does_not_fit_says_so(window, own, devices, words):
    if words is None:
        assert fit(needs(8, window), 4, 2, own, CARD, devices).devices == devices
        return
    with pytest.raises(ValueError, match=words):
        fit(needs(64, window), 4, 2, own, CARD, devices)


def test_a_device_without_a_stated_memory_takes_anything():
    assert fit(needs(1e6, 1), 4, 2, 1, DEVICES["cpu"]).strategy == "single"
