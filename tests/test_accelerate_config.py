"""accelerate_config.yaml is read by accelerate itself, and leaves precision to the recipe."""

from pathlib import Path

from accelerate.commands.config.config_args import load_config_from_file

CONFIG = Path(__file__).parent.parent / "accelerate_config.yaml"


def test_accelerate_reads_the_file_as_several_gpus_of_one_machine():
    config = load_config_from_file(str(CONFIG))
    assert (config.distributed_type, config.num_machines, config.use_cpu) == ("MULTI_GPU", 1, False)


def test_precision_is_left_to_the_recipe():
    assert load_config_from_file(str(CONFIG)).mixed_precision == "no"


def test_the_file_names_the_command_it_is_for():
    assert ("accelerate launch --config_file accelerate_config.yaml --num_processes N -m hfxfer train recipe.yaml"
            in CONFIG.read_text(encoding="utf-8"))
