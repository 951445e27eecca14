"""Runs the training's command line again and again, each in a process of its own, without importing torch each time.

Started by test_command_line.py. Reads lines of JSON. {"arguments": [...], "said": FILE, "environment": {...}} forks a
process that does what `python -m models.training ARGUMENTS` does in the pack's folder, what it says going to FILE, and
prints its number. {"wait": NUMBER} prints how that process ended: its exit status, or minus the signal that killed it.
"""

import json
import os
import runpy
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[3]
os.chdir(ROOT)
sys.path[0] = str(ROOT)

import torch
import tqdm  # noqa: F401  (what the command line imports, so that no process needs to)

from models.training import train_epsilon, train_reed, train_rpiae  # noqa: F401

torch.set_num_threads(1)  # threads do not survive a fork


def run(order: dict) -> int:
    os.environ.update(order["environment"])
    said = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.argv[1:] = order["arguments"]
    try:
        runpy.run_module("models.training", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


for line in sys.stdin:
    order = json.loads(line)
    if "wait" in order:
        print(os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1]), flush=True)
        continue
    child = os.fork()
    if child == 0:
        status = run(order)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    print(child, flush=True)
