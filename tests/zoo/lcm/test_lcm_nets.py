"""What holds of all five nets, and of each."""

import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import released_lcm
from tests.zoo.lcm.arms import ARMS, CONTEXT, WIDTH, arm, batch, fixed, parts
from zoo.lcm import Base, OneTower, TwoTower
from zoo.lcm.base import FRAGILITY
from zoo.lcm.batch import drawn
from zoo.nn.diffusion import Sampler
from zoo.nn.fragility import FragilityModel
from zoo.nn.rvq import ResidualQuantizer
from zoo.pretrained import Saved, from_pretrained, save_pretrained
from zoo.saved import save

torch.set_num_threads(1)
STAGES = {"discrete": 3, "continuous": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return parts(tmp_path_factory.mktemp("space"))


def assert_near(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def test_sizes_of_the_paper():
    """Sheet 3.1 and 3.4: Base 1.6B, Two-Tower 1.6B and 7B; without the queries and keys that do nothing, 6.6 % less."""
    with torch.device("meta"):
        nets = [
            (Base(1024, 128), 1_649_185_792),
            (TwoTower(1024, 128, queries=True), 1_645_538_304),
            (TwoTower(1024, 128, 4096, 5, 14, 32, queries=True), 6_930_781_696),
            (TwoTower(1024, 128), 1_645_538_304 - 109_105_152),
        ]
        assert [sum(p.numel() for p in net.parameters()) for net, _ in nets] == [count for _, count in nets]
        assert abs(sum(p.numel() for p in OneTower(1024, 128).parameters()) / 1.64e9 - 1) < 0.01


@pytest.mark.parametrize("name", ARMS)
class TestEveryNet:
    def test_a_sentence_is_said_from_those_before_it_alone(self, name, folder):
        net, given = arm(name, folder), batch(rows=12)
        said = net.predict(given)
        moved = given | {"vec": given["vec"].clone()}
        moved["vec"][:, 3] += 3
        again = net.predict(moved)
        assert (again[:, :4] == said[:, :4]).all() and (again[:, 4] != said[:, 4]).any()

    def test_one_sentence_at_a_time_with_a_cache_is_the_same(self, name, folder):
        net, given = arm(name, folder), batch()
        said, noise, memory = net.predict(given, seed=7), drawn(given, (WIDTH,), 7), net.memory(3, 5)
        for n in range(5):
            if n or name != "base":
                assert_near(net.next_vector(memory, noise[:, n]), said[:, n])
            net.read(given["vec"][:, n : n + 1], memory)
        assert memory.held == [5, 5, 5]

    def test_prompts_of_different_length_are_read_as_if_alone(self, name, folder):
        net, given = arm(name, folder), batch(size=4)
        noise, memory, lengths = torch.randn(3, WIDTH), net.memory(3, 6), [2, 4, 1]
        net.read(given["vec"], memory, lengths)
        first = net.next_vector(memory, noise)
        net.read(first[:, None], memory)
        memory.select([0, 2])
        second = net.next_vector(memory, noise[[0, 2]])
        for row, place in ((0, 0), (2, 1)):
            alone = net.memory(1, 6)
            net.read(given["vec"][row : row + 1, : lengths[row]], alone)
            assert_near(net.next_vector(alone, noise[row : row + 1])[0], first[row])
            net.read(first[row : row + 1, None], alone)
            assert_near(net.next_vector(alone, noise[row : row + 1])[0], second[place])

    def test_making_a_vector_never_waits_for_the_device(self, name, folder, monkeypatch):
        net, given = arm(name, folder), batch()
        memory, noise = net.memory(3, 6), torch.randn(3, WIDTH)
        net.read(given["vec"], memory, [5, 3, 4])

        def refused(*_):
            raise AssertionError("a number was fetched")

        with monkeypatch.context() as patched:
            for word in ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__int__", "__float__", "__index__"):
                patched.setattr(torch.Tensor, word, refused)
            said = net.next_vector(memory, noise)
        assert said.shape == (3, WIDTH)

    def test_what_a_chunk_is_scored_with_does_not_depend_on_its_company(self, name, folder):
        net, given = arm(name, folder), batch()
        padded = {key: F.pad(value, (0, 0, 0, 20) if key == "vec" else (0, 20)) for key, value in given.items() if value.ndim > 1}
        whole = {**given, **padded}
        alone = {key: value[1:2] for key, value in given.items()}
        assert_near(net.predict(whole)[1:2, :5], net.predict(alone))
        counts = net(whole)["parts"], [net({k: v[i : i + 1] for k, v in given.items()})["parts"] for i in range(3)]
        for part, (total, count) in counts[0].items():
            assert_near(total, sum(each[part][0] for each in counts[1]))
            assert_near(count, sum(each[part][1] for each in counts[1]))

    def test_padding_prompts_and_filling_rows_are_not_learnt(self, name, folder):
        net, given = arm(name, folder), fixed(batch(), stages=STAGES.get(name, 100))
        given["role"] = torch.tensor([[1, 1, 2, 2, 2], [2, 2, 2, 0, 0], [2, 2, 2, 2, 2]])
        given["mask"] = torch.tensor([True, True, False])
        out = net(given)
        first = 0 if name != "base" else -1  # Base-LCM says nothing of a chunk's first sentence
        assert next(iter(out["parts"].values()))[1] == 3 + 3 + first
        other = given | {"vec": given["vec"].clone()}
        other["vec"][2], other["vec"][1, 3:] = 5.0, -5.0
        assert_near(net(other)["loss"], out["loss"])

    def test_every_weight_learns(self, name, folder):
        net = arm(name, folder).train()
        net(batch(rows=8, size=8))["loss"].backward()
        still = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert still == []

    def test_parts_are_the_loss(self, name, folder):
        """Quarters add up to the whole, and the loss is its mean, where no weights are asked for."""
        net = arm(name, folder, **({"loss": "normalized"} if name == "base" else {}))
        out = net(fixed(batch(rows=8), stages=STAGES.get(name, 100)))
        whole, *quarters = out["parts"].values()
        assert_near(out["loss"], whole[0] / whole[1])
        if quarters:
            assert_near(sum(total for total, _ in quarters), whole[0])
            assert sum(count for _, count in quarters) == whole[1]
            assert set(net.part_weights) == set(list(out["parts"])[1:]) and not any(net.part_weights.values())

    def test_a_saved_net_says_the_same_without_the_space(self, name, folder, tmp_path):
        net, given = arm(name, folder), batch()
        save_pretrained(net, tmp_path)
        assert torch.equal(from_pretrained(tmp_path).normalizer.scale, net.normalizer.scale)
        again = Saved(WIDTH, CONTEXT, str(tmp_path)).eval()
        again.sampler = net.sampler
        assert_near(again.predict(given), net.predict(given), 1e-6)

    def test_a_chunk_of_one_sentence(self, name, folder):
        net, given = arm(name, folder).train(), batch(size=1)
        loss = net(given)["loss"]
        loss.backward()
        assert loss.isfinite() and (loss == 0) == (name == "base")  # which has nothing to say of it
        assert net.eval().predict(given).shape == (3, 1, WIDTH)

    def test_narrow_weights_leave_the_scales_of_the_space_alone(self, name, folder):
        net, narrow, given = arm(name, folder), arm(name, folder).bfloat16(), batch()
        assert torch.equal(narrow.normalizer.center, net.normalizer.center) and narrow.post.weight.dtype == torch.bfloat16
        if hasattr(net, "diffusion"):
            assert torch.equal(narrow.diffusion.schedule.alpha, net.diffusion.schedule.alpha)
        loss, other = (each(fixed(given, stages=STAGES.get(name, 100)))["loss"].detach() for each in (net, narrow))
        assert loss.dtype == other.dtype == torch.float32 and abs(other / loss - 1) < 0.1
        assert narrow.predict(given).dtype == torch.float32
        memory = narrow.memory(3, 6)
        narrow.read(given["vec"], memory, lengths := [given["vec"].shape[1], 2, 1])
        noise = torch.randn(3, WIDTH)
        made = narrow.next_vector(memory, noise)
        net.read(given["vec"], wide := net.memory(3, 6), lengths)
        near = net.next_vector(wide, noise)
        assert made.dtype == torch.float32
        units = name in ("discrete", "continuous")  # of which another one may be drawn
        assert units or ((made - near).norm(dim=-1) < 0.1 * near.norm(dim=-1)).all()

    def test_training_draws_are_the_seed(self, name, folder):
        net, given = arm(name, folder, dropout=0.1).train(), batch()
        losses = []
        for seed in (3, 3, 4):
            torch.manual_seed(seed)
            losses.append(float(net(given)["loss"].detach()))
        assert losses[0] == losses[1] != losses[2]

    def test_learns_a_document_by_heart(self, name, folder):
        """Sentences come out of the memory of a net that has seen but one document, said greedily and without guidance."""
        torch.manual_seed(0)
        net = arm(name, folder, dim=32, layers=1, **({"denoiser_layers": 1} if name == "two" else {}))
        for parameter in net.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.1)
            elif parameter.ndim == 1:
                nn.init.zeros_(parameter) if parameter.abs().max() < 0.99 else None
        for module in net.modules():
            if isinstance(module, nn.RMSNorm):
                nn.init.ones_(module.weight)
        given = batch(rows=1, size=4)
        many = {key: value.repeat(16, *[1] * (value.ndim - 1)) for key, value in given.items()}
        optimizer = torch.optim.Adam(net.train().parameters(), lr=5e-3)
        for _ in range(300):
            optimizer.zero_grad()
            net(many)["loss"].backward()
            optimizer.step()
        quantized = name in STAGES
        net.eval().sampler = type(net.sampler)(**({} if name == "base" else {"guidance": 1.0}))
        truth = given["vec"]
        if quantized:
            truth = net.quantizer.decode(net.quantizer.encode(truth[0]))[None]
        error = (net.predict(given) - truth)[:, 1:].norm(dim=-1)  # Base-LCM does not say the first
        assert error.max() < 0.25, error


def test_loss_in_the_space_weighs_dimensions_by_their_scale(folder):
    given = batch()
    space, normalized = (arm("base", folder, loss=loss) for loss in ("space", "normalized"))
    scale = space.normalizer.scale
    x = space.normalizer.normalize(given["vec"])
    error = space.normalizer.denormalize(space._said(x[:, :-1])) - given["vec"][:, 1:]
    assert_near(space(given)["loss"], error.square().sum(-1).mean() / scale.square().mean())
    assert_near(normalized(given)["loss"], (error / scale).square().sum(-1).mean())
    parts = space(given)["parts"]
    assert (
        parts["mse"] == normalized(given)["parts"]["mse"]
        and (parts["in_space"][0] / parts["in_space"][1]) == space(given)["loss"]
    )
    assert space.part_weights == {"mse": 0.0} and normalized.part_weights == {}  # `val/loss` is what is trained


def test_base_moves_what_it_says_only_if_told_to(folder):
    net, given = arm("base", folder), batch()
    still = net.predict(given)
    net.sampler = type(net.sampler)(1.0)
    difference = (net.predict(given) - still) / net.normalizer.scale
    assert_near(difference, drawn(given, (WIDTH,), 0))
    with pytest.raises(ValueError, match="begins no document"):
        net.next_vector(net.memory(1, 3), torch.zeros(1, WIDTH))


# -- Two-Tower ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("steps", [100, 12])  # fewer sentences than steps, and more
def test_two_tower_is_the_released_net_without_its_waste(folder, steps):
    """Same loss and gradients as with all queries, keys, masks and modulators, and the same sentences."""
    net = arm("two", folder, queries=True, steps=steps)
    given = fixed(batch(rows=4), stages=steps)
    given["dropped"] = given["dropped"][:1].expand(4, -1)  # as it draws them
    assert given["dropped"].any() and not given["dropped"].all()
    losses, gradients = [], []
    for loss in (net(given)["loss"], released_lcm.loss(net, given)):
        net.zero_grad()
        loss.backward()
        losses.append(loss.detach())
        gradients.append({key: p.grad.clone() for key, p in net.named_parameters()})
    assert_near(*losses)
    for key in gradients[0]:
        assert_near(gradients[0][key], gradients[1][key], 1e-4)
    net.sampler = Sampler(taken=10, guidance=1.5)
    noise = torch.randn(4, 3, WIDTH)
    theirs = released_lcm.sampling(net, given["vec"], noise)()
    memory = net.memory(4, 8)
    net.read(given["vec"], memory)
    for n in range(3):
        new = net.next_vector(memory, noise[:, n])
        assert_near(new, theirs[:, n], 1e-3)
        net.read(theirs[:, n : n + 1], memory)


@pytest.mark.parametrize("name", ["one", "discrete", "continuous"])
def test_the_half_without_context_is_that_of_nothing_read(name, folder):
    """What guidance goes away from, at every place: that of dropped contexts, and told without reading them."""
    net, given = arm(name, folder), batch()
    x, stage = net.normalizer.normalize(given["vec"]), torch.ones(3, 5, dtype=torch.long)
    left, nobody = net.tower.clean(x.flip(0)), torch.ones(3, 5, dtype=torch.bool)
    assert_near(net.tower.made(x, stage[0], left, guided=True)[:3], net.tower.made(x, stage, left))
    assert_near(net.tower.made(x, stage[0], left, guided=True)[3:], net.tower.made(x, stage, left, nobody))
    assert (net.tower.made(x, stage, left) - net.tower.made(x, stage, left, nobody))[:, 1:].abs().min() > 0


@pytest.mark.parametrize("name", ARMS)
def test_a_document_is_scored_in_one_reading(name, folder, monkeypatch):
    net, read = arm(name, folder), []
    place, word = {"base": (net.tower, "forward"), "two": (net, "_before")}.get(name, (net.tower, "clean"))
    true = getattr(place, word)
    monkeypatch.setattr(place, word, lambda x, *more, **named: read.append(x.shape[:2]) or true(x, *more, **named))
    net.predict(batch())
    assert [tuple(shape) for shape in read] in ([(3, 5)], [(3, 4)])


def test_a_dropped_context_is_that_of_a_first_sentence(folder):
    net, given = arm("two", folder), fixed(batch())
    x0 = net.normalizer.normalize(given["vec"])
    x, t = x0[:, :1], given["step"][:, :1]
    dropped = net._said(x.expand(-1, 5, -1), t.expand(-1, 5), net._before(x0), torch.ones(3, 5, dtype=torch.bool))
    first = net._said(x, t, net._before(x0[:, :1]), torch.zeros(3, 1, dtype=torch.bool))
    assert_near(dropped, first.expand(-1, 5, -1))


def test_layers_begin_as_identities(folder):
    torch.manual_seed(0)
    net = TwoTower(WIDTH, CONTEXT, 16, 1, 2, 2)
    h = torch.randn(2, 3, 16)
    look = lambda q: q
    assert all((layer.made(h, layer.modulation(torch.randn(2, 3, 16)), look) == h).all() for layer in net.layers)


def kept_bytes(net) -> int:
    """What a training step keeps for its backward pass, beside weights."""
    weights, kept = {parameter.data_ptr() for parameter in net.parameters()}, {}

    def pack(x):
        if x.data_ptr() not in weights:
            kept[x.data_ptr()] = x.nbytes
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = net(batch())["loss"]
    del loss
    return sum(kept.values())


@pytest.mark.parametrize("name", ARMS)
def test_recomputing_layers_changes_nothing(name, folder):
    plain, again = (arm(name, folder, checkpoint=kept, dropout=0.1).train() for kept in (False, True))
    for net in (plain, again):
        torch.manual_seed(0)
        net(batch())["loss"].backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(plain.parameters(), again.parameters()))
    assert kept_bytes(again) < 0.7 * kept_bytes(plain)


# -- both diffusion nets -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["one", "two"])
class TestDiffusion:
    def test_several_noisy_versions_are_several_batches(self, name, folder):
        net, given = arm(name, folder, samples=2), batch()
        both = fixed(given, samples=2)
        halves = [given | {key: both[key][3 * k : 3 * k + 3] for key in ("step", "noise", "dropped")} for k in range(2)]
        once = arm(name, folder)
        assert_near(net(both)["loss"], sum(once(half)["loss"] for half in halves) / 2)

    def test_guidance_of_one_is_none(self, name, folder):
        net, given, calls = arm(name, folder), batch(), []
        net.sampler = Sampler(taken=5, guidance=1.0)
        plain = net.predict(given)
        net.sampler = Sampler(taken=5, guidance=1.0 + 1e-6, rescale=0.0)
        assert_near(net.predict(given), plain, 1e-3)
        say = net._sayer

        def counting(*arguments):
            said = say(*arguments)
            return lambda x, t: calls.append(t) or said(x, t)

        net._sayer, net.sampler = counting, Sampler(taken=40)
        net.predict(given)
        assert len(calls) == 40 and calls[0] == 99 and calls[-1] <= 2

    def test_without_context_guidance_has_nothing_to_compare(self, name, folder):
        """The first sentence has no context, so what is said with and without it is the same, whatever g is."""
        net, given = arm(name, folder), batch()
        said = []
        for g in (1.0, 2.0, 4.0):
            net.sampler = Sampler(taken=8, guidance=g)
            said.append(net.predict(given))
        assert_near(said[1][:, 0], said[0][:, 0], 1e-3)
        assert_near(said[2][:, 0], said[0][:, 0], 1e-3)
        assert (said[2][:, 1:] - said[0][:, 1:]).abs().max() > 1e-2

    @pytest.mark.parametrize("mean", [False, True])  # eq. 17, and the released code
    def test_clamped_snr_weighs_steps(self, name, folder, mean):
        given = fixed(batch())
        net = arm(name, folder, snr=[0.001, 5.0], snr_mean=mean)
        x0 = net.normalizer.normalize(given["vec"])
        draw = net.diffusion.draw(given)
        off = torch.arange(15.0).view(3, 5)
        weights = net.diffusion.schedule.clamped_snr(draw.t, 0.001, 5.0)
        expected = (weights * off.square() * WIDTH).mean() / (weights.mean() if mean else 1)
        said = x0 + off[..., None]
        assert_near(net.diffusion.scored(said, x0, draw, given)["loss"], expected, 1e-2)
        assert weights.max() / weights.min() > 10
        given["weight"] = torch.zeros(3, 5)
        assert net.diffusion.scored(said, x0, draw, given)["loss"] == 0

    def test_fragile_sentences_weigh_less(self, name, folder, tmp_path):
        given, model = fixed(batch()), FragilityModel(WIDTH, 8)
        save(model, tmp_path / FRAGILITY)
        plain, papers, halves = (
            arm(name, folder, fragility=str(tmp_path), fragility_numbers=numbers) if numbers != [] else arm(name, folder)
            for numbers in ([], None, [0.0, 0.0])
        )
        x0, draw = plain.normalizer.normalize(given["vec"]), plain.diffusion.draw(given)
        said = x0 + torch.arange(15.0).view(3, 5, 1)
        loss, weighed, half = (net.diffusion.scored(said, x0, draw, given)["loss"] for net in (plain, papers, halves))
        weights = torch.sigmoid(-4 * model(x0).clamp(0, 1) + 3.5)
        assert_near(weighed, (weights * (said - x0).square().sum(-1)).mean(), 1e-2)
        assert_near(half, loss / 2, 1e-4)
        with pytest.raises(ValueError, match="a and b"):
            arm(name, folder, fragility_numbers=[1.0])

    def test_rows_are_dropped_as_asked(self, name, folder):
        torch.manual_seed(0)
        given = batch(rows=200, size=8)
        each = arm(name, folder, drop=0.25).train().diffusion.draw(given).dropped
        assert each.float().mean().sub(0.25).abs() < 0.04 and (each != each[:1]).any()
        batched = arm(name, folder, drop=0.3, drop_rows="batch").train().diffusion.draw(given).dropped
        assert (batched == batched[:1]).all() and batched[0].sum() == math.floor(0.3 * 7) and not batched[0, 0]
        assert not arm(name, folder, drop=0.9).diffusion.draw(given).dropped.any()  # never where it is scored

    def test_fresh_noise_in_every_step(self, name, folder):
        net, given = arm(name, folder), batch()
        net.sampler = Sampler(taken=5, guidance=1.0, eta=1.0)
        said = net.predict(given, seed=1)
        assert (said == net.predict(given, seed=1)).all() and (said != net.predict(given, seed=2)).any()
        memory, noise = net.memory(3, 6), drawn(given, (WIDTH,), 1)
        more = [drawn(given, (WIDTH,), hash((1, call))) for call in range(1, 5)]
        for n in range(5):
            steps = iter(more)
            assert_near(net.next_vector(memory, noise[:, n], lambda steps=steps, n=n: next(steps)[:, n]), said[:, n])
            net.read(given["vec"][:, n : n + 1], memory)
        with pytest.raises(ValueError, match="eta above 0 puts fresh noise"):
            net.next_vector(memory, noise[:, 0])

    def test_other_targets_make_vectors_too(self, name, folder):
        for predicts in ("epsilon", "v"):
            net = arm(name, folder, predicts=predicts)
            assert net.sampler.predicts == predicts
            assert net.predict(batch()).isfinite().all() and net(batch())["loss"].isfinite()


# -- the one-tower trunk -----------------------------------------------------------------------------------------------
def test_one_tower_is_the_interleaved_sequence(folder):
    """Figure 7: noisy 0, clean 0, noisy 1, …; all see clean vectors of earlier sentences and themselves."""
    net, given = arm("one", folder), fixed(batch())
    x0 = net.normalizer.normalize(given["vec"])
    x, t, tower = net.diffusion.noised(x0, net.diffusion.draw(given)), given["step"] + 1, net.tower
    size = x.shape[1]
    mixed = torch.stack((x, x0), 2).flatten(1, 2)  # (B, 2 S, E)
    steps = torch.stack((t, torch.zeros_like(t)), 2).flatten(1)
    h = tower.pre(torch.cat((mixed, tower.stages(steps)), -1)) + tower.places(torch.arange(2 * size) // 2)
    place, clean = torch.arange(2 * size) // 2, torch.arange(2 * size) % 2 == 1
    sees = clean[None] & (place[None] < place[:, None]) | torch.eye(2 * size, dtype=torch.bool)
    rows = given["dropped"].repeat_interleave(2, 1) & ~clean
    sees = torch.where(rows[..., None], torch.eye(2 * size, dtype=torch.bool), sees)[:, None]
    for layer in tower.layers:
        h = layer(h, None, sees)
    assert_near(tower.made(x, t, tower.clean(x0), given["dropped"]), tower.norm(h)[:, ::2])


def test_positions_run_out_with_a_sentence(folder):
    for name in ARMS:
        net = arm(name, folder, positions=9)
        net.trunk.fits(net.trunk.positions)
        with pytest.raises(ValueError, match="10 sentences were asked of a net that has 9 positions"):
            net.trunk.fits(10)
        memory = net.memory(1, 10)
        with pytest.raises(ValueError, match="10 sentences were asked of a net that has 9 positions"):
            for _ in range(10):
                net.read(torch.zeros(1, 1, WIDTH), memory)
                net.next_vector(memory, torch.zeros(1, WIDTH))


# -- Quant -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["discrete", "continuous"])
class TestQuant:
    def test_sums_are_of_true_centroids_and_begin_at_zero(self, name, folder, monkeypatch):
        net, given = arm(name, folder), fixed(batch(), stages=3)
        seen, quantizer = [], net.quantizer
        monkeypatch.setattr(net.tower, "made", lambda x, *rest: seen.append((x, rest[0])) or torch.zeros(*x.shape[:2], 16))
        net(given)
        sums, stage = seen[0]
        codes = quantizer.encode(given["vec"].flatten(0, 1)).view(3, 5, -1)
        for row in range(3):
            for n in range(5):
                book = int(given["step"][row, n])
                whole = sum(quantizer.centroids[k][codes[row, n, k]] for k in range(book)) if book else None
                expected = net.normalizer.normalize(whole) if book else torch.zeros(WIDTH)
                assert_near(sums[row, n], expected)
                assert stage[row, n] == book + 1

    def test_what_comes_out_is_a_sum_of_centroids(self, name, folder):
        net = arm(name, folder)
        said = net.predict(batch())[0]
        grid = [torch.cartesian_prod(*[torch.arange(8)] * 3)]
        every = net.quantizer.decode(grid[0])  # (512, E)
        assert torch.cdist(said, every, compute_mode="donot_use_mm_for_euclid_dist").min(1).values.max() < 1e-4

    def test_the_best_is_taken_without_chance(self, name, folder):
        net = arm(name, folder)
        net.sampler = type(net.sampler)(1.0)
        assert (net.predict(batch(), seed=1) == net.predict(batch(), seed=2)).all()
        net.sampler = type(net.sampler)(1.0, 1.0)
        assert (net.predict(batch(), seed=1) != net.predict(batch(), seed=2)).any()


def test_chances_pick_units_as_often_as_they_are_likely(folder):
    choose = type(arm("discrete", folder).sampler)
    logits, chances = torch.tensor([0.5, 0.25, 0.2, 0.05]).log(), (torch.arange(1000) + 0.5) / 1000
    picked = choose(1.0, 1.0)(logits.expand(1000, 4), chances)
    assert torch.bincount(picked).tolist() == [500, 250, 200, 50]
    assert (choose(1.0, 0.0)(logits.expand(5, 4), chances[:5]) == 0).all()
    assert set(choose(1.0, 1.0, top_k=2)(logits.expand(1000, 4), chances).tolist()) == {0, 1}


def test_continuous_takes_the_centroid_nearest_to_what_is_lacking(folder, monkeypatch):
    net = arm("continuous", folder)
    net.sampler = type(net.sampler)(1.0)
    given = batch()
    monkeypatch.setattr(net.tower, "made", lambda x, *rest, **more: torch.zeros(*x.shape[:2], 16))
    target = net.normalizer.denormalize(net.post.bias)  # what it says of every sentence
    expected = net.quantizer.decode(net.quantizer.encode(target[None].detach()))[0]
    assert_near(net.predict(given), expected.expand(3, 5, -1))


def test_codebooks_and_normalizers_of_another_space_are_refused(folder, tmp_path):
    from zoo.lcm import Quant

    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    save_pretrained(arm("discrete", moved), tmp_path / "net")
    other = ResidualQuantizer(WIDTH, 3, 8)
    other.fit(torch.randn(50, WIDTH), steps=2)
    save(other, moved / "quantizer.safetensors")
    with pytest.raises(ValueError, match="The net has learnt other codebooks than those in"):
        from_pretrained(tmp_path / "net")

    with pytest.raises(ValueError, match="vectors of 6 numbers, not 7"):
        Quant(7, CONTEXT, str(folder), 16, 1, 2)
    with pytest.raises(ValueError, match="for vectors of 6 numbers, and the data have 7"):
        Base(7, CONTEXT, 16, 1, 2, normalizer=str(folder))
    with pytest.raises(FileNotFoundError, match="there is no Normalizer"):
        Base(6, CONTEXT, 16, 1, 2, normalizer=str(tmp_path))
    with pytest.raises(ValueError, match="target is 'discrete' or 'continuous'"):
        Quant(6, CONTEXT, str(folder), 16, 1, 2, target="both")
    with pytest.raises(ValueError, match="do not fit a sigmoid schedule"):
        TwoTower(6, CONTEXT, 16, 1, 1, 2, schedule="sigmoid", schedule_numbers=[1.0])
