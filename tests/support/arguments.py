"""Options of `vllm serve` as people write them, right and wrong: a table for our checks and for the real vLLM."""

TAKEN: list[list[str]] = [
    [],
    ["--enforce-eager"],
    ["--max-num-seqs", "8"],
    ["--max-num-seqs=8"],
    ["--max_num_seqs", "8"],
    ["--max-num-batched-tokens", "8k"],
    ["--max-model-len", "auto"],
    ["-tp", "2"],
    ["-O3"],
    ["--no-enable-prefix-caching"],
    ["--compilation-config", '{"mode": 3}'],
    ["--compilation-config.mode", "3"],
    ["--cudagraph-capture-sizes", "1", "2", "4"],
    ["--seed", "-1"],
    ["--dtype", "bfloat16"],
    ["--enable-chunked-prefil"],
    ["--gpu-memory-utilization", "0.9"],
]

REFUSED: list[tuple[list[str], str]] = [
    (
        ["--enable-chunk-prefill"],
        "--enable-chunk-prefill is no option of vLLM {v}; did you mean --enable-chunked-prefill?",
    ),
    (["--qqq"], "--qqq is no option of vLLM {v}; see `vllm serve --help=all`"),
    (["--max-num-seqs", "eight"], "--max-num-seqs does not take 'eight'; give a whole number of at least 1"),
    (["--max-num-seqs"], "--max-num-seqs needs a value; give a whole number of at least 1"),
    (["--max-num-seqs", "1", "2"], "--max-num-seqs takes one value, '2' is left over"),
    (["--max-num-seqs 8"], '\'--max-num-seqs 8\' is one item; write two: ["--max-num-seqs", "8"]'),
    (["--enforce-eager", "true"], "--enforce-eager takes no value, 'true' is given"),
    (["--enforce-eager=true"], "--enforce-eager takes no value, 'true' is given"),
    (
        ["--scheduling-policy", "prioirty"],
        "--scheduling-policy does not take 'prioirty'; one of fcfs, priority; did you mean priority?",
    ),
    (["--compilation-config", "{mode: 3"], "--compilation-config does not take '{mode: 3'; give JSON"),
    (
        ["--gpu-memory-utilization", "most"],
        "--gpu-memory-utilization does not take 'most'; give a number from 0 to 1",
    ),
    (["eager"], "'eager' is no option; options start with --"),
]
"""With what we say of the first item; `{v}` is the version."""

CONTRADICTING: list[tuple[list[str], str]] = [
    (
        ["--max-num-batched-tokens", "4", "--max-num-seqs", "8"],
        "--max-num-batched-tokens 4 is less than --max-num-seqs 8; raise it, or lower the other",
    ),
    (
        ["--max-num-active-seqs", "9", "--max-num-seqs", "8"],
        "--max-num-active-seqs 9 is more than --max-num-seqs 8; lower it, or raise the other",
    ),
    (
        ["--enable-auto-tool-choice"],
        "--enable-auto-tool-choice needs --tool-call-parser; add it, e.g. --tool-call-parser hermes",
    ),
    (
        ["--enable-auto-tool-choice", "--tool-call-parser", "lama3_json"],
        "--tool-call-parser: vLLM {v} does not know 'lama3_json'; did you mean llama3_json?",
    ),
    (
        ["--reasoning-parser", "deepseek-r1"],
        "--reasoning-parser: vLLM {v} does not know 'deepseek-r1'; did you mean deepseek_r1?",
    ),
    (["--enable-log-outputs"], "--enable-log-outputs needs --enable-log-requests; add it"),
    (["--quantization", "fp-8"], "--quantization: vLLM {v} does not know 'fp-8'; did you mean fp8?"),
]
"""What is wrong with the items together, or with a word that only vLLM itself knows."""
