"""For each line that it is sent: forks a process that saves two sessions to one file by turns, until it is killed.

Started by test_storage.py. Prints how many seconds it takes to save both and the sessions' digests, then of each process
its number, and "killed" once it is.
"""

import importlib.util
import itertools
import os
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[3]
spec = importlib.util.spec_from_file_location(
    "models", ROOT / "models" / "__init__.py", submodule_search_locations=[str(ROOT / "models")]
)
sys.modules["models"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["models"])

from models.session.record import EditRecord, with_record
from models.session.storage import save_session

torch.set_num_threads(1)  # threads do not survive a fork
sessions = []
for seed in (1, 2):
    generator = torch.Generator().manual_seed(seed)
    record = EditRecord(torch.randn(1, 16, 64, 64, generator=generator))
    for _ in range(4):
        record = record.with_edit(torch.randn(1, 16, 64, 64, generator=generator), "edit", "t")
    sessions.append(with_record({}, record))
started = time.monotonic()
for latent in sessions:
    save_session(Path(sys.argv[1]), latent)
print(time.monotonic() - started, *(latent["reedit"].current_digest for latent in sessions), flush=True)
for _ in sys.stdin:
    child = os.fork()
    if child == 0:
        for latent in itertools.cycle(sessions):
            save_session(Path(sys.argv[1]), latent)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("killed", flush=True)
