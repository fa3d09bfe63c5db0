"""A script that publishes, in two processes: what is sent, is sent once, and what is refused, in both."""

import json
import os
import subprocess
import sys
from pathlib import Path

from hub_server import HubServer
from script_lines import PRELUDE
from tiny_models import bert_checkpoint

from hfxfer.run import Run

TWO = """
import torch.distributed as dist
args = arguments(push_to_hub=True, num_train_epochs=1, per_device_train_batch_size=4)
made = trainer(args)
made.train()
made.push_to_hub("Again")
hub_error = refused(lambda: trainer(arguments(push_to_hub=True, hub_model_id="bigco/x")))
with open(out + f"-{dist.get_rank()}", "w") as file:
    json.dump([hub_error, made.publisher.model_id], file)
dist.destroy_process_group()
"""


def test_two_processes_push_once_and_are_refused_together(tmp_path):
    out, file, tests = tmp_path / "two", tmp_path / "two.py", Path(__file__).parent
    file.write_text(PRELUDE.format(base=str(bert_checkpoint(tmp_path / "bert")), out=str(out)) + TWO)
    with HubServer(tmp_path / "hub") as hub:
        hub.add_user("me", orgs={"bigco": "read"})
        paths = os.pathsep.join([str(tests.parent), str(tests)])
        environment = hub.environment(tmp_path / "home", hub.token("me"), OMP_NUM_THREADS="1", PYTHONPATH=paths)
        done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(file)], env=environment,
                              capture_output=True, text=True, timeout=300, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert [commit.title for commit in hub.repo("me/two").pushes] == ["Training in progress, epoch 1", "End of training"]
    first, second = (json.loads(Path(f"{out}-{rank}").read_text()) for rank in range(2))
    assert first == second and first[1] == "me/two" and first[0][1].startswith("me may not write in bigco")
    assert Run(out).score("accuracy").num_rows == 6
