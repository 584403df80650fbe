"""Shared by all tests: golden files in tests/golden, cases and adaptors in conformance/."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches for the network
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Left out of `make test-quick`: modules of whole runs, of other processes and of many compilations, and single tests of
# more than about a second. A new one is marked where it stands, with `@pytest.mark.slow`.
SLOW = frozenset((
    "conformance/test_agreement.py",
    "conformance/test_imports.py",
    "conformance/training/test_same_curve.py",
    "tests/core/test_checkpoint_hostile.py",
    "tests/docs/test_notebooks.py",
    "tests/docs/test_snippets.py",
    "tests/flax/test_contract.py",
    "tests/flax/test_exports.py",
    "tests/flax/test_fast_layers.py",
    "tests/flax/test_fast_pooled.py",
    "tests/flax/test_loss.py",
    "tests/flax/test_network.py",
    "tests/flax/test_transforms.py",
    "tests/tf/test_contract437.py",
    "tests/tf/test_exports.py",
    "tests/tf/test_keras_fit.py",
    "tests/tf/test_loss.py",
    "tests/tf/test_replaced_layers.py",
    "tests/torch/test_exports.py",
    "tests/triclip/command/test_cli_train.py",
    "tests/triclip/flax/test_train_engine.py",
    "tests/triclip/flax/test_train_runs.py",
    "tests/triclip/serve/test_server.py",
    "tests/triclip/test_bulk_killed.py",
    "tests/triclip/test_data_workers.py",
    "tests/triclip/test_index_killed.py",
    "tests/triclip/tf/test_train_engine.py",
    "tests/triclip/tf/test_train_runs.py",
    "tests/triclip/torch/test_train_processes.py",
    "conformance/test_conform.py::test_all_installed_backends_agree",
    "conformance/test_pipeline.py::test_vectors_are_alike_in_every_backend",
    "tests/core/test_chains.py::test_a_chain_keeps_the_function",
    "tests/core/test_checkpoint_function.py::test_the_text_encoders_of_diffusion_models",
    "tests/core/test_files.py::test_a_kill_leaves_the_old_or_the_new_checkpoint",
    "tests/core/test_hub.py::test_a_hub_that_does_not_answer_is_file_not_found",
    "tests/core/test_hub_upload.py::test_saving_uploads_what_it_wrote",
    "tests/core/test_image_api.py::test_a_size_that_only_some_pictures_make_too_large",
    "tests/core/test_image_input.py::test_a_picture_is_afterwards_as_after_load",
    "tests/core/test_image_processor.py::test_tall_and_wide_pictures_take_bounded_memory",
    "tests/core/test_image_threads.py::test_an_interrupted_caller_leaves_no_work_behind",
    "tests/flax/test_files.py::test_parameters_keep_the_files_types_unless_torch_dtype_says_otherwise",
    "tests/flax/test_maxdiffusion.py::test_a_subclass_with_a_module_of_its_own",
    "tests/flax/test_maxdiffusion.py::test_loading_and_encoding_prompts",
    "tests/flax/test_maxdiffusion.py::test_restoring_a_state_into_a_model_without_parameters",
    "tests/flax/test_maxdiffusion.py::test_training_the_text_encoder",
    "tests/flax/test_own_parts.py::test_a_plain_checkpoint_fills_clip_and_the_rest_is_drawn",
    "tests/flax/test_own_parts.py::test_partial_parameters_without_init_are_completed",
    "tests/flax/test_wrapper.py::test_a_model_can_be_copied_pickled_and_collected",
    "tests/flax/test_wrapper.py::test_calls_are_compiled_once_per_shape_and_flags",
    "tests/tf/test_fast_load.py::test_no_copy_of_a_variable_is_made",
    "tests/tf/test_keras_backend.py::test_a_keras_that_already_runs_on_another_backend",
    "tests/tf/test_keras_backend.py::test_no_other_framework_is_needed",
    "tests/tf/test_keras_export.py::test_litert_of_a_single_tower",
    "tests/tf/test_keras_export.py::test_litert_of_both_towers",
    "tests/tf/test_keras_export.py::test_saved_model",
    "tests/tf/test_keras_save.py::test_a_compiled_model_goes_on_where_it_stopped",
    "tests/torch/test_fast_pooled.py::test_compiles_without_graph_breaks",
    "tests/torch/test_network.py::test_compile_takes_another_batch_without_failing",
    "tests/triclip/flax/test_bulk.py::test_pictures_and_captions_of_a_shard",
    "tests/triclip/flax/test_train_memory.py::test_the_ring_is_linear_in_the_batch",
    "tests/triclip/test_benchmarks.py::test_processes_kept_fresh_and_whole",
    "tests/triclip/test_bulk.py::test_memory_does_not_grow_with_the_input",
    "tests/triclip/test_bulk.py::test_shares_are_together_what_one_run_is",
    "tests/triclip/test_data_pipeline.py::test_the_same_bytes_on_1_2_4_and_8_processes",
    "tests/triclip/test_train_loop.py::test_it_learns",
    "tests/triclip/test_train_loop.py::test_killed_after_a_save_leaves_no_doubles",
    "tests/triclip/test_train_loop.py::test_other_weights_to_begin_with_are_another_run",
    "tests/triclip/test_train_loop.py::test_stopped_and_gone_on_with_equals_the_uninterrupted_run",
    "tests/triclip/tf/test_bulk.py::test_pictures_and_captions_of_a_shard",
    "tests/triclip/tf/test_clip.py::test_a_graph_follows_the_model",
    "tests/triclip/torch/test_explain.py::test_relevance_lies_on_the_side_of_what_the_words_say",
    "tests/triclip/torch/test_explain.py::test_the_backends_explain_alike",
    "tests/triclip/torch/test_train_engine.py::test_a_resumed_run_is_the_uninterrupted_one_to_the_bit",
    "tests/triclip/torch/test_train_run.py::test_a_run_is_gone_on_with_and_its_model_loads",
))  # fmt: skip
ROOT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        module = Path(item.path).relative_to(ROOT).as_posix() if Path(item.path).is_relative_to(ROOT) else ""
        name = f"{module}::{getattr(item, 'originalname', item.name)}"
        compiled = module == "conformance/test_cases.py" and not item.name.partition("[")[2].startswith("torch")
        if module in SLOW or name in SLOW or compiled:
            item.add_marker(pytest.mark.slow)
