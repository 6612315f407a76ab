"""Foreign clients of the OpenAI API: schemathesis, which makes requests from our own document."""

import asyncio
import sys
import tempfile
from dataclasses import dataclass

from support.waiting import PATIENCE

CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"),
    *("response_headers_conformance", "unsupported_method", "allow_header_conformance"),
)
"""What holds for every answer. That all is refused which the document does not allow is not among it: what the front
does not read is the engine's affair."""
ANSWER_SECONDS = 120


@dataclass(frozen=True)
class Fuzzed:
    """What came of it."""

    is_clean: bool
    report: str


async def fuzz(url: str, *, examples: int, seed: int, bound_seconds: float, path: str = "") -> Fuzzed:
    """Let schemathesis send requests that the API's document allows, and ones that it almost allows.

    `path`: only to this one.

    Raises:
        TimeoutError: it did not end: some request hangs.
    """
    arguments = (
        *("run", f"{url}/openapi.json", "--phases=coverage,fuzzing", "--mode=all", f"--checks={','.join(CHECKS)}"),
        *(f"--max-examples={examples}", f"--seed={seed}", "--generation-database=none", "--no-color"),
        *(f"--request-timeout={ANSWER_SECONDS}", f"--max-response-time={ANSWER_SECONDS}", "--continue-on-failure"),
        *((f"--include-path={path}",) if path else ()),
    )
    with tempfile.TemporaryDirectory() as folder:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", *arguments),
            cwd=folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), PATIENCE * bound_seconds)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return Fuzzed(process.returncode == 0, output.decode(errors="replace"))
