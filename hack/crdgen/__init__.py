"""The generators: the CRD and its reference page from `warmfleet_api`, the table of options from vLLM itself.

    models (pydantic) ──structural.py──▶ structural schema ──definition.py──▶ crds/*.yaml
                                                  └────────reference.py───▶ docs/reference/*.md
    runtime image (vLLM) ───────────────engine_table.py──▶ warmfleet_api/vllm_arguments.json

`hack/verify` runs it. A shape that a CRD can't express is refused with the field's path, never weakened silently.
"""
