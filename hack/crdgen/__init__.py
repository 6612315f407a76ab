"""The generator of what is derived from `warmfleet_api`: the CRD and its reference page.

    models (pydantic) ──structural.py──▶ structural schema ──definition.py──▶ crds/*.yaml
                                                  └────────reference.py───▶ docs/reference/*.md

`hack/verify` runs it. A shape that a CRD can't express is refused with the field's path, never weakened silently.
"""
