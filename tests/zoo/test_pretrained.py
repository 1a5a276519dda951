"""Nets on disk: ours, and transformers' two layouts with equal logits."""

import json

import pytest
import torch
from safetensors.torch import save_file

from zoo.mtp import MTP
from zoo.ntp import NextToken
from zoo.pretrained import from_pretrained, from_transformers, save_pretrained, to_transformers

torch.set_num_threads(1)
V, T = 37, 14
SIZES = {"vocab": V, "context": T, "dim": 24, "layers": 4, "heads": 3}
NEWER = ("head", "arrangement", "unembeddings", "extra")  # arguments that MTP got later
FORMS = [("gpt2", True), ("gpt2", False), ("llama", True), ("llama", False)]


def stir(net):
    """Weights large enough that every part matters, biases and norms included."""
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.1)
    return net.eval()


def logits(net, tokens):
    return net.next(tokens, net.cache(len(tokens)))


@pytest.mark.parametrize(
    "make",
    [
        lambda f, t: NextToken(**SIZES, flavour=f, tied=t, dropout=0.1),
        lambda f, t: MTP(n=2, **SIZES, flavour=f, tied=t, reduction="mean"),
        lambda f, t: MTP(n=2, **SIZES, flavour=f, tied=t, arrangement="anticausal", extra=1),
        lambda f, t: MTP(n=2, **SIZES, flavour=f, tied=t, head="linear"),
        lambda f, t: MTP(n=6, **SIZES, flavour=f, tied=t, unembeddings="replicated"),
    ],
)
@pytest.mark.parametrize("flavour, tied", FORMS)
def test_a_saved_net_comes_back_the_same(make, flavour, tied, tmp_path):
    net = stir(make(flavour, tied))
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "tokenizer.json").write_text("{}")
    for _ in range(2):  # saving over an older save works too
        save_pretrained(net, tmp_path / "net", tmp_path / "words")
    again = from_pretrained(tmp_path / "net")
    assert type(again) is type(net) and again.config == net.config and not again.training
    assert list(again.state_dict()) == list(net.state_dict())
    assert all(torch.equal(a, b) and a.requires_grad for a, b in zip(again.parameters(), net.parameters()))
    assert sorted(p.name for p in (tmp_path / "net").iterdir()) == ["config.json", "model.safetensors", "tokenizer"]
    assert (tmp_path / "net" / "tokenizer" / "tokenizer.json").is_file()
    tokens = torch.randint(0, V, (2, 9))
    assert torch.equal(logits(again, tokens), logits(net, tokens))


def test_types_of_the_weights_are_kept(tmp_path):
    net = NextToken(**SIZES).bfloat16()
    save_pretrained(net, tmp_path)
    assert {p.dtype for p in from_pretrained(tmp_path).parameters()} == {torch.bfloat16}


def their_model(flavour, tied, folder=None):
    import transformers

    if folder is not None:
        cls = transformers.GPT2LMHeadModel if flavour == "gpt2" else transformers.LlamaForCausalLM
        model, info = cls.from_pretrained(folder, output_loading_info=True)
        assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    elif flavour == "gpt2":
        model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=V,
                n_positions=T,
                n_embd=24,
                n_layer=4,
                n_head=3,
                tie_word_embeddings=tied,
                n_inner=40,
                layer_norm_epsilon=1e-4,
            )
        )
    else:
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=V,
                max_position_embeddings=T,
                hidden_size=24,
                num_hidden_layers=4,
                num_attention_heads=3,
                intermediate_size=40,
                tie_word_embeddings=tied,
                rope_theta=500.0,
                rms_norm_eps=1e-4,
            )
        )
    return model.eval()


@pytest.mark.parametrize("flavour, tied", FORMS)
def test_transformers_loads_ours_with_equal_logits(flavour, tied, tmp_path):
    net, tokens = (
        stir(NextToken(**SIZES, flavour=flavour, tied=tied, positions=20, theta=300.0, eps=1e-3)),
        torch.randint(0, V, (2, T)),
    )
    to_transformers(net, tmp_path)
    with torch.no_grad():
        theirs = their_model(flavour, tied, tmp_path)(tokens).logits
    assert theirs.std() > 0.1
    torch.testing.assert_close(logits(net, tokens), theirs, atol=1e-5, rtol=0)
    again = from_transformers(tmp_path)
    torch.testing.assert_close(logits(again, tokens), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("flavour, tied", FORMS)
def test_we_load_theirs_with_equal_logits(flavour, tied, tmp_path):
    theirs, tokens = stir(their_model(flavour, tied)), torch.randint(0, V, (2, T))
    theirs.save_pretrained(tmp_path)
    net = from_transformers(tmp_path)
    with torch.no_grad():
        expected = theirs(tokens).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(logits(net, tokens), expected, atol=1e-5, rtol=0)
    batch = {"tokens": torch.cat((tokens, tokens[:, :1]), 1)}
    nll = torch.nn.functional.cross_entropy(expected.transpose(1, 2), batch["tokens"][:, 1:], reduction="none")
    torch.testing.assert_close(net.nll(batch), nll, atol=1e-5, rtol=0)


def test_sharded_weights_are_read(tmp_path):
    theirs = stir(their_model("llama", False))
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    tokens = torch.randint(0, V, (1, T))
    with torch.no_grad():
        torch.testing.assert_close(logits(from_transformers(tmp_path), tokens), theirs(tokens).logits, atol=1e-5, rtol=0)


HEADS = {
    "parallel": ({}, 2),
    "parallel + 2": ({"extra": 2}, 4),
    "causal": ({"arrangement": "causal"}, 2),
    "anticausal": ({"arrangement": "anticausal"}, 4),
    "linear": ({"head": "linear"}, 4),
    "replicated": ({"unembeddings": "replicated"}, 4),
}


@pytest.mark.parametrize("form", HEADS)
@pytest.mark.parametrize("flavour, tied", FORMS)
def test_of_a_multi_token_predictor_head_one_is_exported(form, flavour, tied, tmp_path):
    """The other heads are dropped: the layers that are left are those that head 1 needs."""
    options, layers = HEADS[form]
    net, tokens = stir(MTP(n=3, **SIZES, flavour=flavour, tied=tied, **options)), torch.randint(0, V, (2, T))
    to_transformers(net, tmp_path)
    model = their_model(flavour, None, tmp_path)
    with torch.no_grad():
        theirs = model(tokens).logits
    assert theirs.std() > 0.1
    torch.testing.assert_close(logits(net, tokens), theirs, atol=1e-5, rtol=0)
    again = from_transformers(tmp_path)
    torch.testing.assert_close(logits(again, tokens), theirs, atol=1e-5, rtol=0)
    assert model.config.num_hidden_layers == len(again.trunk.layers) == layers
    assert model.config.tie_word_embeddings == (tied and form != "linear")  # a linear head is multiplied into the table


@pytest.mark.parametrize("form", HEADS)
def test_the_next_token_weights_fill_a_next_token_net(form):
    options, layers = HEADS[form]
    net, tokens = stir(MTP(n=3, **SIZES, **options)).double(), torch.randint(0, V, (2, T))
    alone = NextToken(**{**SIZES, "layers": layers}).double()
    alone.load_state_dict(net.next_token_weights())
    torch.testing.assert_close(logits(alone, tokens), logits(net, tokens), atol=1e-10, rtol=0)


def test_a_folder_from_before_there_were_other_heads_loads(tmp_path):
    net = stir(MTP(n=2, **SIZES))
    save_pretrained(net, tmp_path)
    old = {"class": "zoo.mtp.net.MTP", "config": {k: w for k, w in net.config.items() if k not in NEWER}}
    assert len(old["config"]) == len(net.config) - len(NEWER)
    (tmp_path / "config.json").write_text(json.dumps(old))
    save_file(dict(net.state_dict()), tmp_path / "model.safetensors", {"zoo": json.dumps(old, sort_keys=True)})
    tokens = torch.randint(0, V, (2, T))
    assert torch.equal(logits(from_pretrained(tmp_path), tokens), logits(net, tokens))


def test_missing_and_damaged_folders_are_named_in_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no saved net"):
        from_pretrained(tmp_path / "nowhere")
    save_pretrained(NextToken(**SIZES), tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole, text = weights.read_bytes(), config.read_text()
    weights.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="damaged or truncated"):
        from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="incomplete"):
        from_pretrained(tmp_path)
    weights.write_bytes(whole)
    config.write_text(text[:-20])
    with pytest.raises(ValueError, match="no JSON object"):
        from_pretrained(tmp_path)
    config.write_text(text.replace('"dim": 24', '"dim": 48'))
    with pytest.raises(ValueError, match="do not belong together"):
        from_pretrained(tmp_path)
    config.write_text("{}")
    with pytest.raises(ValueError, match="use from_transformers"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "torch.nn.Linear",
        "zoo.mtp.net.torch",
        "zoo.ntp.net.Block",
        "zoology.Net",
        "zoo.nowhere.Net",
        "NextToken",
        "zoo.pretrained.save_pretrained",
        3,
    ],
)
def test_only_nets_of_this_package_are_built(path, tmp_path):
    save_pretrained(NextToken(**SIZES), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "class": path}))
    with pytest.raises(ValueError, match="no net of this version of zoo"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_type": "bert"}, "only 'gpt2' and 'llama'"),
        ({"rope_scaling": {"type": "linear"}}, "asks for rope_scaling"),
        ({"num_key_value_heads": 1}, "asks for num_key_value_heads = 1"),
        ({"hidden_act": "gelu"}, "asks for hidden_act"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "asks for rope_type"),
        ({"num_hidden_layers": 5}, "lack model.layers.4"),
        ({"vocab_size": 40}, "do not fit"),
    ],
)
def test_foreign_folders_that_do_not_fit_are_refused(change, message, tmp_path):
    to_transformers(NextToken(**SIZES), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        from_transformers(tmp_path)


def test_where_newer_transformers_keep_theta(tmp_path):
    to_transformers(NextToken(**SIZES), tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["rope_theta"]
    path.write_text(json.dumps({**config, "rope_parameters": {"rope_theta": 77.0, "rope_type": "default"}}))
    assert from_transformers(tmp_path).trunk.theta == 77.0


def test_nothing_is_left_behind_when_the_disk_is_full(tmp_path, monkeypatch):
    import zoo.pretrained as pretrained

    save_pretrained(NextToken(**SIZES), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pretrained, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_pretrained(NextToken(**SIZES, flavour="gpt2"), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
