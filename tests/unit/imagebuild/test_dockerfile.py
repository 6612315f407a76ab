from pathlib import Path

import pytest

from imagebuild.dockerfile import settings
from imagebuild.errors import BuildError

DOCKERFILE = """
FROM debian AS base
ENV LOST=1
RUN apt-get update \\
    && true

FROM base
# Why these are here.
COPY --from=base /environment /
ENV PATH=/opt/bin:/bin \\
    # said in between
    GREETING="two words"
USER 65532:65532
WORKDIR /
ENTRYPOINT ["python", "-m", "program"]
"""


def test_the_settings_are_those_of_the_last_stage(tmp_path: Path) -> None:
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(DOCKERFILE)
    assert settings(dockerfile) == {
        "Env": ["PATH=/opt/bin:/bin", "GREETING=two words"],
        "User": "65532:65532",
        "WorkingDir": "/",
        "Entrypoint": ["python", "-m", "program"],
    }


@pytest.mark.parametrize("instruction", ["VOLUME /data", "ENTRYPOINT python -m program", "RUN chmod 755 /"])
def test_an_instruction_that_the_builder_would_drop_is_refused(tmp_path: Path, instruction: str) -> None:
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(f"{DOCKERFILE}{instruction}\n")
    with pytest.raises(BuildError, match="cannot read"):
        settings(dockerfile)
