"""Options of commands that load a backbone: those of `BackboneArguments`, and no others."""

import argparse
from dataclasses import fields

import pytest

from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.backbones.options import add_backbone_options, backbone_of_options


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser()
    add_backbone_options(parser, "any model")
    return parser


def test_there_is_an_option_for_every_argument_with_its_description(parser):
    options = {action.dest: action for action in parser._actions if action.dest != "help"}
    assert list(options) == ["backbone", *(field.name for field in fields(BackboneArguments)[1:])]
    assert options["backbone"].help == "any model"
    assert options["revision"].help.startswith("branch, tag or commit of a model on the Hub")
    assert options["dtype"].choices == ["float32", "bfloat16", "float16"]
    assert options["attn_implementation"].choices == ["eager", "sdpa", "flash_attention_2", "flex_attention"]


def test_what_is_given_goes_before_other_arguments_and_those_before_the_defaults(parser):
    assert backbone_of_options(parser.parse_args([])) == BackboneArguments()
    words = ["--backbone", "m", "--revision", "v2", "--dtype", "bfloat16", "--load-in-8bit", "--trust-remote-code"]
    expected = BackboneArguments("m", "bfloat16", trust_remote_code=True, revision="v2", load_in_8bit=True)
    assert backbone_of_options(parser.parse_args(words)) == expected
    below = {"name": "other", "dtype": "float16", "attn_implementation": "eager", "revision": "v1"}
    assert backbone_of_options(parser.parse_args(["--dtype", "bfloat16"]), below) == BackboneArguments(
        "other", "bfloat16", attn_implementation="eager", revision="v1"
    )
    # Another model has not the revision of the one that was named.
    assert backbone_of_options(parser.parse_args(["--backbone", "m"]), below) == BackboneArguments(
        "m", "float16", attn_implementation="eager"
    )
    with pytest.raises(ValueError, match="both true"):
        backbone_of_options(parser.parse_args(["--load-in-4bit", "--load-in-8bit"]))
