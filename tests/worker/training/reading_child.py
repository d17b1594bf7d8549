"""In the place of the training process: it says that it begins, and reads what it trains on."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    data = Path(json.loads(sys.stdin.readline())["spec"]["data"])
    os.write(int(sys.argv[2]), b'{"event": "note", "text": "begins"}\n')
    data.read_bytes()
