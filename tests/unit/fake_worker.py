"""A worker that speaks the protocol of `gptwo.bench.peers.worker` and has no model; a script for tests."""

import json
import sys
import time

MODE = sys.argv[1]

for line in sys.stdin:
    order = json.loads(line)
    if order["do"] == "end":
        break
    if MODE == "dies":
        sys.exit(3)
    if MODE == "hangs":
        time.sleep(60)
    if MODE == "babbles":
        print("loading...", flush=True)
        continue
    if MODE == "fails":
        print(json.dumps({"error": "ValueError: no such weights"}), flush=True)
        continue
    count = order["tokens"] - (MODE == "short")
    tokens = [[(sum(prompt) + i) % 50 for i in range(count)] for prompt in order["prompts"]]
    print(json.dumps({"seconds": 0.001 * count, "tokens": tokens, "peak": 1 << 20, "version": "1"}), flush=True)
