import pytest
import torch

from lors.checkpoint.naming import names_in
from lors.errors import UsageError
from lors.merge.policy import Policy, Rule, find_policy, load_policy, policy_names
from tests.refusal import refusal
from tests.unit.whisper_files import hugging_face_state, openai_state

ENCODERS = {
    "transformer": {
        "prune": "self_attn.linear_q self_attn.linear_k self_attn.linear_v self_attn.linear_out "
        "feed_forward.w_1 feed_forward.w_2",
        "whole": "norm1 norm2",
    },
    "conformer": {
        "prune": "self_attn.linear_q self_attn.linear_k self_attn.linear_v self_attn.linear_out "
        "feed_forward.w_1 feed_forward.w_2 feed_forward_macaron.w_1 feed_forward_macaron.w_2",
        "whole": "self_attn.linear_pos conv_module.pointwise_conv1 conv_module.depthwise_conv "
        "conv_module.pointwise_conv2 conv_module.norm norm_ff norm_mha norm_conv norm_final",
    },
    "e_branchformer": {
        "prune": "attn.linear_q attn.linear_k attn.linear_v attn.linear_out "
        "feed_forward.w_1 feed_forward.w_2 feed_forward_macaron.w_1 feed_forward_macaron.w_2 "
        "cgmlp.channel_proj1.0 cgmlp.channel_proj2 merge_proj",
        "whole": "attn.linear_pos cgmlp.csgu.norm cgmlp.csgu.conv depthwise_conv_fusion "
        "norm_ff norm_ff_macaron norm_mha norm_mlp norm_final",
    },
}
MATRIX = ((4, 4), torch.float32)
VECTOR = ((4,), torch.float32)


def espnet_spec(encoder):
    """Names as in a state dict of ESPnet's S2T task -> (spec entry, expected action)."""
    expected = {
        "frontend.logmel.melmat": (MATRIX, "copy"),
        "normalize.mean": (VECTOR, "copy"),
        "normalize.std": (VECTOR, "copy"),
        "encoder.embed.conv.0.weight": (((4, 1, 3, 3), torch.float32), "whole"),
        "encoder.embed.out.0.weight": (MATRIX, "whole"),
        "encoder.after_norm.weight": (VECTOR, "whole"),
        "decoder.embed.0.weight": (MATRIX, "whole"),
        "decoder.output_layer.weight": (MATRIX, "whole"),
        "decoder.output_layer.bias": (VECTOR, "whole"),
        "ctc.ctc_lo.weight": (MATRIX, "whole"),
        "ctc.ctc_lo.bias": (VECTOR, "whole"),
    }
    stacks = {"encoder.encoders": ENCODERS[encoder], "decoder.decoders": ENCODERS["transformer"]}
    for stack, kinds in stacks.items():
        for layer in (0, 11):
            for action, modules in kinds.items():
                for module in modules.split():
                    expected[f"{stack}.{layer}.{module}.weight"] = (MATRIX, action)
                    expected[f"{stack}.{layer}.{module}.bias"] = (VECTOR, "whole")
    for name in "qkv":
        expected[f"decoder.decoders.0.src_attn.linear_{name}.weight"] = (MATRIX, "prune")
    expected["decoder.decoders.0.src_attn.linear_out.weight"] = (MATRIX, "prune")
    expected["encoder.encoders.0.self_attn.pos_bias_u"] = (MATRIX, "whole")
    if encoder == "conformer":
        norm = "encoder.encoders.0.conv_module.norm"
        expected[f"{norm}.running_mean"] = expected[f"{norm}.running_var"] = (VECTOR, "copy")
        expected[f"{norm}.num_batches_tracked"] = (((), torch.int64), "copy")
    return expected


def whisper_spec(prefix=""):
    expected = {
        "encoder.positional_embedding": (MATRIX, "copy"),
        "decoder.positional_embedding": (MATRIX, "whole"),
        "encoder.conv1.weight": (((4, 4, 3), torch.float32), "whole"),
        "encoder.ln_post.weight": (VECTOR, "whole"),
        "decoder.token_embedding.weight": (MATRIX, "whole"),
        "decoder.ln.weight": (VECTOR, "whole"),
    }
    for stack, attentions in (("encoder", ["attn"]), ("decoder", ["attn", "cross_attn"])):
        for attention in attentions:
            for part in ("query", "key", "value", "out"):
                name = f"{stack}.blocks.0.{attention}.{part}"
                expected[f"{name}.weight"] = (MATRIX, "prune")
                expected[f"{name}.bias"] = (VECTOR, "whole")
            expected[f"{stack}.blocks.0.{attention}_ln.weight"] = (VECTOR, "whole")
        for layer in (0, 2):
            expected[f"{stack}.blocks.0.mlp.{layer}.weight"] = (MATRIX, "prune")
            expected[f"{stack}.blocks.0.mlp.{layer}.bias"] = (VECTOR, "whole")
        expected[f"{stack}.blocks.0.mlp_ln.weight"] = (VECTOR, "whole")
    return {
        name.replace("encoder.", f"encoder.{prefix}", 1).replace(
            "decoder.", f"decoder.{prefix.replace('en', 'de')}", 1
        ): entry
        for name, entry in expected.items()
    }


MODELS = {
    **{f"espnet {name}": ("espnet_s2t", espnet_spec(name)) for name in ENCODERS},
    "openai whisper": ("whisper", whisper_spec()),
    "whisper in espnet": ("whisper", whisper_spec("encoders.")),
}


@pytest.mark.parametrize("model", MODELS)
def test_shipped_policies(model):
    name, expected = MODELS[model]
    policy = find_policy(expected, where="model.pth")
    assert policy.name == name
    actions = policy.actions({name: spec for name, (spec, _) in expected.items()})
    wrong = {name: action for name, action in actions.items() if action != expected[name][1]}
    assert not wrong and list(actions) == list(expected)


@pytest.mark.parametrize("model", MODELS)
def test_depths_of_layers(model):
    """The layers of ESPnet here are 0 and 11 of a stack; those of Whisper are 0 alone."""
    name, expected = MODELS[model]
    depths = load_policy(name).depths(expected)
    inside = {n for n in expected if ".encoders." in n or ".decoders." in n or ".blocks." in n}
    if name == "whisper":
        inside = {n for n in expected if ".blocks." in n}
    assert depths.keys() == inside
    assert all(depth == float(".11." in name) for name, depth in depths.items())


def test_depths_in_every_naming_scheme():
    """Four layers a stack: the names of OpenAI and Hugging Face give the same depths."""
    openai = {
        f"{stack}.blocks.{layer}.mlp.2.weight": layer / 3
        for stack in ("encoder", "decoder")
        for layer in range(4)
    }
    assert load_policy("whisper").depths([*openai, "decoder.ln.weight"]) == openai
    names = names_in("huggingface", openai)
    theirs = {names[name]: depth for name, depth in openai.items()}
    assert load_policy("whisper_hf").depths(theirs) == theirs


def test_names_without_a_layer_have_no_depth():
    policy = Policy("x", ("*",), (Rule("whole", ("*",)),), stacks=("encoder.*", "encoder.*.b"))
    names = ["encoder.norm.weight", "decoder.1.a", "encoder.٣.a", f"encoder.{'9' * 5000}.a"]
    assert policy.depths(names) == {}
    assert policy.depths([*names, "encoder.0.a", "encoder.x.4.2.b", "encoder.2.a"]) == {
        "encoder.0.a": 0.0,
        "encoder.x.4.2.b": 1.0,
        "encoder.2.a": 0.5,
    }


def test_exactly_one_policy_recognises_each_model():
    for policy, expected in MODELS.values():
        found = [name for name in policy_names() if load_policy(name).recognises(expected)]
        assert found == [policy]


def test_every_shipped_policy_carries_the_name_of_its_file():
    assert policy_names() == ["espnet_s2t", "wav2vec2", "whisper", "whisper_hf"]
    for name in policy_names():
        assert load_policy(name).name == name


def test_unknown_model():
    with refusal("x.pth", "layer.0.weight", "--policy", *policy_names()):
        find_policy(["layer.0.weight", "layer.1.weight"], where="x.pth")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_models_in_wrappers(prefix):
    names = [f"{prefix}{name}" for name in openai_state(0)]
    with refusal("m.pth", f"'{prefix}'"):
        find_policy(names, "m.pth")


def test_a_whisper_of_hugging_face_without_its_output_layer():
    names = [name.removeprefix("model.") for name in hugging_face_state(openai_state(0))]
    with refusal("m.pth", "'model.'", "WhisperForConditionalGeneration"):
        find_policy(names, "m.pth")


def test_unknown_policy_name():
    with refusal("wisper", "did you mean whisper", kind=UsageError):
        load_policy("wisper")


def test_every_uncovered_or_unprunable_tensor_is_listed():
    policy = Policy("mine", ("*",), (Rule("prune", ("a.*",)), Rule("whole", ("b.*",))))
    spec = {
        "a.bias": VECTOR,
        "a.weight": MATRIX,
        "c.weight": MATRIX,
        "b.weight": MATRIX,
        "d.weight": MATRIX,
        "e.steps": ((), torch.int64),
    }
    with refusal("'mine'", "[4]") as caught:
        policy.actions(spec)
    assert [line.split(":")[0] for line in caught.value.got] == ["a.bias", "c.weight", "d.weight"]


def test_first_matching_rule_decides_and_only_the_star_is_special():
    policy = Policy("m", ("*",), (Rule("copy", ("x[0].w",)), Rule("prune", ("x*.w",))))
    assert policy.actions({"x[0].w": MATRIX, "x0.w": MATRIX}) == {"x[0].w": "copy", "x0.w": "prune"}
    with refusal("yx0.w"):
        policy.actions({"yx0.w": MATRIX})


def test_policy_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text('family: mine\ndetect: ["a"]\nrules: [{action: whole, patterns: ["*"]}]\n')
    assert load_policy(str(path)).actions({"x": MATRIX}) == {"x": "whole"}
    path.write_text('family: mine\ndetect: ["a"]\nrules: [{action: drop, patterns: ["*"]}]\n')
    with refusal(path, "rules[0].action", "drop", "prune, whole, copy", kind=UsageError):
        load_policy(str(path))
    with refusal(tmp_path / "none.yaml"):
        load_policy(str(tmp_path / "none.yaml"))


def test_empty_tensors_are_copied():
    shapes = [(0, 5), (5, 0), (2, 0, 3), (0,)]
    policy = Policy("test", (), (Rule("prune", ("*",)),))
    actions = policy.actions({str(s): (s, torch.float32) for s in shapes})
    assert set(actions.values()) == {"copy"}


def test_patterns_with_many_stars():
    names = ["a" * 2000, "", "abcabc", "a*c", "abc", "aXbYc"]
    cases = [
        ("*a" * 300 + "b", []),
        ("*a" * 300, [names[0]]),
        ("", [""]),
        ("*", names),
        ("a*b*c", ["abcabc", "abc", "aXbYc"]),
        ("abc*abc", ["abcabc"]),
        ("abca*cabc", []),
        ("*bc", ["abcabc", "abc"]),
    ]
    spec = {name: ((2, 2), torch.float32) for name in names}
    for pattern, matched in cases:
        rules = (Rule("prune", (pattern,)), Rule("copy", ("*",)))
        actions = Policy("test", (), rules).actions(spec)
        assert [name for name in names if actions[name] == "prune"] == matched
